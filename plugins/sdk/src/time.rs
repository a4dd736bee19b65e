//! Times, which engines write in RFC 3339 and the contract counts in milliseconds.
//!
//! By hand, because a calendar crate makes every component a third larger: 160 KB with jiff.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in milliseconds since the epoch, by the host's clock: for times that an endpoint gives as such.
#[expect(clippy::disallowed_methods, reason = "a component's one clock is what its host gives it")]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339 as milliseconds since the epoch; none for another form and for years before it.
pub fn milliseconds(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once('T')?;
    let at = rest.find(['Z', '+', '-'])?;
    let (time, zone) = rest.split_at(at);
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(whole, ':')?;
    let sensible = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if !sensible {
        return None;
    }
    let offset = match zone.strip_prefix(['+', '-']) {
        None => 0,
        Some(ahead) => {
            let (hours, minutes) = ahead.split_once(':')?;
            let minutes = i64::from(hours.parse::<u8>().ok()?) * 60 + i64::from(minutes.parse::<u8>().ok()?);
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    // Years that begin in March put the leap day last, so a month's first day needs no table.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute - offset) * 60 + second;
    let millis: String = fraction.chars().chain("000".chars()).take(3).collect();
    u64::try_from(seconds * 1000 + millis.parse::<i64>().ok()?).ok()
}

fn numbers(text: &str, by: char) -> Option<[i64; 3]> {
    let parts: Option<Vec<i64>> = text.split(by).map(|part| part.parse().ok()).collect();
    parts?.try_into().ok()
}

/// Milliseconds since the epoch as RFC 3339, in UTC and whole seconds.
pub fn rfc3339(milliseconds: u64) -> String {
    let (days, second) = (milliseconds / 86_400_000, milliseconds / 1000 % 86_400);
    // Counted in eras of 400 years that begin in March, as above.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (era * 400 + year, month + 3) } else { (era * 400 + year + 1, month - 9) };
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::{milliseconds, rfc3339};

    #[test]
    fn milliseconds_become_times_again() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_709_210_096_789), "2024-02-29T12:34:56Z");
        // Every 1,001 days and a bit, over six centuries.
        for at in (0..19_000_000_000_u64).step_by(86_500_000) {
            assert_eq!(milliseconds(&rfc3339(at * 1000)), Some(at * 1000));
        }
    }

    #[test]
    fn times_of_engines_become_milliseconds() {
        let check = |text: &str, expected| assert_eq!(milliseconds(text), expected, "{text}");
        check("1970-01-01T00:00:00Z", Some(0));
        check("2024-02-29T12:34:56.789123456Z", Some(1_709_210_096_789));
        check("2000-03-01T00:00:00.5+01:00", Some(951_865_200_500));
        check("2026-11-23T04:50:10.1-02:30", Some(1_795_418_410_100));
        check("1969-12-31T23:59:59Z", None);
        check("0001-01-01T00:00:00Z", None);
        check("2024-02-29 12:34:56Z", None);
        check("2024-02-29T12:34:56", None);
        check("2024-13-01T00:00:00Z", None);
        check("9999999999999999999-01-01T00:00:00Z", None);
        check("2024-01-01T00:00:00+99999999999999999:00", None);
        check("", None);
    }
}
