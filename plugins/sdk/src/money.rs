//! Prices, which providers write as decimal numbers and the contract counts in millionths.

use crate::Price;

/// Digits after the point that count.
const SCALE: usize = 6;

/// A decimal number, `0.0056`, in millionths, rounded up so that a price is never reported as nothing. None for what
/// is no such number, is negative, or is too large.
pub fn micros(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let (kept, rest) = fraction.split_at(fraction.len().min(SCALE));
    let kept: u64 = format!("{kept:0<SCALE$}").parse().ok()?;
    let more = rest.bytes().any(|b| b != b'0');
    whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(kept)?.checked_add(more.into())
}

impl Price {
    /// A price per hour that a provider wrote as a decimal number.
    pub fn per_hour(decimal: &str, currency: &str) -> Option<Self> {
        Some(Self { micros_per_hour: micros(decimal)?, currency: currency.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::micros;

    #[test]
    fn decimal_numbers_become_millionths() {
        let check = |text: &str, expected| assert_eq!(micros(text), expected, "{text}");
        check("0.0056", Some(5_600));
        check("1", Some(1_000_000));
        check("1.", Some(1_000_000));
        check("0.0052000000000000", Some(5_200));
        check("0.00520000000000001", Some(5_201));
        check("0.0000000001", Some(1));
        check("18446744073709.551615", Some(u64::MAX));
        check("18446744073709.551616", None);
        check("99999999999999999999999", None);
        for text in ["", ".5", "-1", "+1", "1e3", "1,5", "0.5 ", "0x1", "½"] {
            check(text, None);
        }
    }
}
