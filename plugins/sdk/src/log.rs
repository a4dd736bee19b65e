//! Log lines, as sentences plus fields: `log!(Info, "pulled an image"; "image" => image)`. Never a secret.

pub use crate::bindings::pacer::backend::log::Level;

/// Writes a line to the host's log; natively, to standard error.
pub fn emit(level: Level, message: &str, fields: &[(String, String)]) {
    #[cfg(target_family = "wasm")]
    crate::bindings::pacer::backend::log::emit(level, message, fields);
    #[cfg(not(target_family = "wasm"))]
    eprintln!("{level:?}: {message} {fields:?}");
}

/// Writes a line of a level, `Trace` to `Error`.
#[macro_export]
macro_rules! log {
    ($level:ident, $format:literal $(, $arg:expr)* $(; $($key:literal => $value:expr),+)?) => {
        $crate::log::emit(
            $crate::log::Level::$level,
            &format!($format $(, $arg)*),
            &[$($(($key.to_owned(), $value.to_string())),+)?],
        )
    };
}
