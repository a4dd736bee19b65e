//! Texts from outside and times, as people can read them.

use jiff::Timestamp;
use maud::{Markup, html};

use crate::{
    fleet::{runner::Runner, shown_cost},
    routing::shown_up_to,
};

/// Longer texts are cut; their whole is in the API.
const MAX_SHOWN: usize = 300;

/// A text of strangers, cut, with nothing in it that misleads.
pub fn visible(text: &str) -> String {
    shown_up_to(text, MAX_SHOWN)
}

/// What a machine cost, or costs so far.
pub fn cost(runner: &Runner, now: Timestamp) -> Option<String> {
    let rate = runner.rate.as_ref()?;
    Some(match runner.cost_micros {
        Some(micros) => shown_cost(micros, &rate.currency),
        None => format!("{} so far", shown_cost(rate.cost(now), &rate.currency)),
    })
}

/// A moment, relative, with the exact time on hover; the script keeps it fresh.
pub fn ago(at: Timestamp, now: Timestamp) -> Markup {
    let distance = now.duration_since(at).as_secs();
    let words =
        if distance < 0 { format!("in {}", duration(-distance)) } else { format!("{} ago", duration(distance)) };
    html! { time datetime=(at) title=(at) data-relative { (words) } }
}

/// The time between two moments; one that has no end yet goes on counting.
pub fn span(from: Timestamp, until: Option<Timestamp>, now: Timestamp) -> Markup {
    match until {
        Some(until) => html! { span title=(until) { (duration(until.duration_since(from).as_secs())) } },
        None => {
            html! { time datetime=(from) title={ "since " (from) } data-since { (duration(now.duration_since(from).as_secs())) } }
        }
    }
}

/// Two units at most: `3 s`, `2 min 5 s`, `4 h 10 min`, `3 d 2 h`.
pub fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (seconds, expected) in
            [(-4, "0 s"), (59, "59 s"), (125, "2 min 5 s"), (15_000, "4 h 10 min"), (266_400, "3 d 2 h")]
        {
            assert_eq!(duration(seconds), expected);
        }
    }
}
