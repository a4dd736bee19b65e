//! A pool's warm minimum: how many idle runners it keeps ready, and when.

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, Time, Weekday},
    tz::TimeZone,
};

use super::{WarmWindow, reader::Section, value::Value};

pub(super) const WINDOW: &[&str] = &["days", "from", "to", "min_idle"];

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

/// How many idle runners are wanted, and when.
#[derive(Debug, Clone)]
pub struct Warm {
    /// Outside all windows.
    pub min_idle: u32,
    pub windows: Vec<WarmWindow>,
    pub zone: TimeZone,
}

impl Warm {
    /// The same at all times.
    pub fn always(min_idle: u32) -> Self {
        Self { min_idle, windows: Vec::new(), zone: TimeZone::UTC }
    }

    /// The most there ever is.
    pub fn most(&self) -> u32 {
        self.windows.iter().map(|window| window.min_idle).fold(self.min_idle, u32::max)
    }

    /// The minimum that holds now, and when that may change. Of windows that overlap the highest number holds.
    pub fn at(&self, now: Timestamp) -> (u32, Option<Timestamp>) {
        let today = now.to_zoned(self.zone.clone()).date();
        let mut holds: Option<u32> = None;
        let mut next: Option<Timestamp> = None;
        // A window of yesterday may reach into today, and the next one begins within a week.
        for day in -1..=8 {
            let Ok(date) = today.checked_add(day.days()) else { continue };
            for window in self.windows.iter().filter(|window| window.days.contains(&date.weekday())) {
                let Some((start, end)) = self.span(window, date) else { continue };
                if start <= now && now < end {
                    holds = holds.max(Some(window.min_idle));
                }
                for change in [start, end].into_iter().filter(|change| *change > now) {
                    next = Some(next.map_or(change, |next| next.min(change)));
                }
            }
        }
        (holds.unwrap_or(self.min_idle), next)
    }

    /// A window on one of its days. Where clocks jump over a time, the time after the jump is meant.
    fn span(&self, window: &WarmWindow, date: Date) -> Option<(Timestamp, Timestamp)> {
        let instant =
            |date: Date, time: Time| Some(date.to_datetime(time).to_zoned(self.zone.clone()).ok()?.timestamp());
        let last = if window.to <= window.from { date.tomorrow().ok()? } else { date };
        Some((instant(date, window.from)?, instant(last, window.to)?))
    }
}

/// `min_idle`, `warm` and `time_zone` of a pool.
pub(super) fn warm(section: &Section<'_, '_>, min_idle: Option<u32>) -> Option<Warm> {
    let zone = match section.get("time_zone") {
        None => Some(TimeZone::UTC),
        Some(value) => zone(&value),
    };
    let mut windows = Some(Vec::new());
    for value in section.get("warm").map(|value| value.items()).unwrap_or_default() {
        match (window(&value.section(WINDOW)), &mut windows) {
            (Some(window), Some(windows)) => windows.push(window),
            _ => windows = None,
        }
    }
    if section.get("time_zone").is_some() && section.get("warm").is_none() {
        section.problem("time_zone", "is about `warm`, which is not here", "add `warm`, or remove `time_zone`");
        return None;
    }
    Some(Warm { min_idle: min_idle?, windows: windows?, zone: zone? })
}

fn zone(value: &Value<'_, '_>) -> Option<TimeZone> {
    let name = value.text()?;
    let zone = TimeZone::get(name).ok();
    if zone.is_none() {
        value.problem("is no time zone", "write a name of the IANA database, such as `Europe/Berlin` or `UTC`");
    }
    zone
}

fn window(section: &Section<'_, '_>) -> Option<WarmWindow> {
    let days = match section.get("days") {
        None => Some(DAYS.iter().map(|(_, day)| *day).collect()),
        Some(value) => value.items().iter().map(|day| day.word(&DAYS)).collect::<Option<Vec<_>>>(),
    };
    let from = time(section, "from");
    let to = time(section, "to");
    let min_idle = section.required("min_idle", "say how many idle runners to keep in this window")?.integer::<u32>();
    Some(WarmWindow { days: days?, from: from?, to: to?, min_idle: min_idle? })
}

/// `08:00`; `24:00` is midnight at the end of the day.
fn time(section: &Section<'_, '_>, key: &str) -> Option<Time> {
    let value = section.required(key, "write a time of the day in quotes, as in `\"08:00\"`")?;
    let text = value.text()?;
    let read = || {
        let (hour, minute) = text.split_once(':').filter(|(hour, minute)| hour.len() <= 2 && minute.len() == 2)?;
        let (hour, minute) = (hour.parse().ok()?, minute.parse().ok()?);
        if (hour, minute) == (24, 0) { Some(Time::midnight()) } else { Time::new(hour, minute, 0, 0).ok() }
    };
    let time = read();
    if time.is_none() {
        value.problem("is no time of the day", "write hours and minutes in quotes, as in `\"08:00\"`");
    }
    time
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn berlin(windows: Vec<WarmWindow>) -> Warm {
        Warm { min_idle: 1, windows, zone: TimeZone::get("Europe/Berlin").unwrap() }
    }

    fn window(days: &[Weekday], from: (i8, i8), to: (i8, i8), min_idle: u32) -> WarmWindow {
        let time = |(hour, minute)| Time::constant(hour, minute, 0, 0);
        WarmWindow { days: days.to_vec(), from: time(from), to: time(to), min_idle }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn windows_hold_in_their_own_time_zone() {
        let workdays = [Weekday::Monday, Weekday::Tuesday];
        let warm = berlin(vec![window(&workdays, (8, 0), (18, 30), 4), window(&workdays, (9, 0), (10, 0), 9)]);
        // 2026-11-23 is a Monday; Berlin is one hour ahead of UTC in winter.
        let check = |now: &str, holds: u32, next: &str| assert_eq!(warm.at(at(now)), (holds, Some(at(next))), "{now}");
        check("2026-11-23T06:59:59Z", 1, "2026-11-23T07:00:00Z");
        check("2026-11-23T07:00:00Z", 4, "2026-11-23T08:00:00Z");
        check("2026-11-23T08:30:00Z", 9, "2026-11-23T09:00:00Z");
        check("2026-11-23T09:00:00Z", 4, "2026-11-23T17:30:00Z");
        check("2026-11-23T17:30:00Z", 1, "2026-11-24T07:00:00Z");
        check("2026-11-24T18:00:00Z", 1, "2026-11-30T07:00:00Z");
        assert_eq!((warm.most(), Warm::always(2).at(at("2026-01-01T00:00:00Z"))), (9, (2, None)));
    }

    #[test]
    fn a_window_may_reach_over_midnight_and_over_a_change_of_the_clocks() {
        let night = berlin(vec![window(&[Weekday::Saturday], (22, 0), (6, 0), 5)]);
        assert_eq!(night.at(at("2026-11-21T23:30:00Z")), (5, Some(at("2026-11-22T05:00:00Z"))));
        assert_eq!(night.at(at("2026-11-22T05:00:00Z")).0, 1);
        // On 2026-03-29 clocks go from 02:00 to 03:00.
        let jump = berlin(vec![window(&[Weekday::Sunday], (2, 30), (4, 0), 5)]);
        assert_eq!(jump.at(at("2026-03-29T01:29:00Z")).0, 1);
        assert_eq!(jump.at(at("2026-03-29T01:31:00Z")).0, 5, "03:31 there");
        let whole = berlin(vec![window(&[Weekday::Sunday], (0, 0), (0, 0), 5)]);
        assert_eq!(whole.at(at("2026-03-29T21:59:00Z")), (5, Some(at("2026-03-29T22:00:00Z"))), "23 hours long");
    }

    proptest! {
        /// Between two changes nothing changes: whoever sleeps until the next one misses nothing.
        #[test]
        fn nothing_changes_before_the_next_change(
            now in 1_700_000_000i64..1_900_000_000,
            part in 0.0f64..1.0,
            hours in proptest::collection::vec((0i8..24, 0i8..24, 0u32..9, 0usize..7), 1..4),
        ) {
            let windows = hours.iter().map(|(from, to, min, day)| window(&[DAYS[*day].1], (*from, 0), (*to, 0), *min)).collect();
            let warm = berlin(windows);
            let now = Timestamp::from_second(now).unwrap();
            let (holds, next) = warm.at(now);
            let next = next.unwrap();
            prop_assert!(next > now);
            #[expect(clippy::cast_possible_truncation, reason = "a part of some days in seconds")]
            let later = ((next.as_second() - now.as_second() - 1) as f64 * part) as i64;
            prop_assert_eq!(warm.at(now + jiff::SignedDuration::from_secs(later.max(0))).0, holds);
        }
    }
}
