//! Words of the file: durations (`1h30m`) and sizes (`64MiB`).

use std::time::Duration;

/// Reads `90d`, `1h30m`, `500ms`: whole numbers, each with a unit, larger units first or not. At most 100 years.
pub(super) fn duration(text: &str) -> Option<Duration> {
    const LONGEST: u64 = 100 * 365 * 86_400 * 1000;
    let mut rest = text.trim();
    let mut millis = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return None,
        };
        rest = &rest[letters..];
        millis = number.checked_mul(unit).and_then(|part| millis.checked_add(part)).filter(|sum| *sum <= LONGEST)?;
    }
    Some(Duration::from_millis(millis))
}

/// Reads `64MiB`, `2GiB`, `16KiB`, `100B`, and the decimal `MB`, `GB`, `KB`.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim_start() {
        "B" => 1,
        "KB" | "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(duration(text), expected.map(Duration::from_millis), "{text}");
        };
        check("30s", Some(30_000));
        check("1h30m", Some(5_400_000));
        check("7d", Some(604_800_000));
        check("500ms", Some(500));
        check("0s", Some(0));
        for wrong in ["", " ", "5", "m", "1.5h", "-1s", "1y", "99999999999999999999s", "40000d", "1h 30m", "5µs"] {
            check(wrong, None);
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("64MiB"), Some(64 << 20));
        assert_eq!(size("2 GiB"), Some(2 << 30));
        assert_eq!(size("1MB"), Some(1_000_000));
        for wrong in ["", "64", "MiB", "64mib", "-1B", "99999999999999999999B", "18446744073709551615GiB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,40}") {
            let _ = (duration(&text), size(&text));
        }

        #[test]
        fn a_written_duration_reads_back(hours in 0_u64..1000, minutes in 0_u64..60) {
            let text = format!("{hours}h{minutes}m");
            prop_assert_eq!(duration(&text), Some(Duration::from_secs(hours * 3600 + minutes * 60)));
        }
    }
}
