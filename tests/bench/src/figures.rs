//! The table at the end: what was promised, what was measured.

use std::{fmt, time::Duration};

/// A promise: at least or at most so much.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Printed for comparison only.
    None,
}

#[derive(Debug)]
struct Figure {
    what: String,
    measured: f64,
    unit: &'static str,
    target: Target,
}

/// Everything measured so far.
#[derive(Debug, Default)]
pub struct Figures {
    figures: Vec<Figure>,
    left_out: Vec<String>,
}

impl Figures {
    pub fn add(&mut self, what: impl Into<String>, measured: f64, unit: &'static str, target: Target) {
        self.figures.push(Figure { what: what.into(), measured, unit, target });
    }

    /// What could not be measured here, and why.
    pub fn leave_out(&mut self, what: &str, why: &str) {
        self.left_out.push(format!("{what}: {why}"));
    }

    /// How many promises are broken, or not known to be kept.
    pub fn missed(&self) -> usize {
        self.figures.iter().filter(|figure| figure.met() == Some(false)).count() + self.left_out.len()
    }
}

impl Figure {
    fn met(&self) -> Option<bool> {
        match self.target {
            Target::AtLeast(least) => Some(self.measured >= least),
            Target::AtMost(most) => Some(self.measured <= most),
            Target::None => None,
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<66} {:>14}  {:>14}", "figure", "measured", "promised")?;
        for figure in &self.figures {
            let unit = figure.unit;
            let promised = match figure.target {
                Target::AtLeast(least) => format!(">= {least} {unit}"),
                Target::AtMost(most) => format!("<= {most} {unit}"),
                Target::None => String::new(),
            };
            let verdict = match figure.met() {
                Some(true) => "ok",
                Some(false) => "MISSED",
                None => "",
            };
            let measured = format!("{} {unit}", rounded(figure.measured));
            writeln!(f, "{:<66} {measured:>14}  {promised:>14}  {verdict}", figure.what)?;
        }
        for left_out in &self.left_out {
            writeln!(f, "NOT MEASURED: {left_out}")?;
        }
        Ok(())
    }
}

/// Three digits that matter.
fn rounded(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The value that this share of the sorted durations does not exceed, in milliseconds. 0 when there are none.
pub fn quantile_ms(sorted: &[Duration], quantile: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = ((sorted.len() as f64 * quantile).ceil() as usize).saturating_sub(1).min(last);
    sorted.get(index).map_or(0.0, |duration| duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let durations: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile_ms(&durations, 0.5), 50.0);
        assert_eq!(quantile_ms(&durations, 0.99), 99.0);
        assert_eq!(quantile_ms(&durations, 1.0), 100.0);
        assert_eq!(quantile_ms(&[], 0.99), 0.0);
    }

    #[test]
    fn a_missed_target_is_said_and_counted() {
        let mut figures = Figures::default();
        figures.add("fast", 10.0, "/s", Target::AtLeast(5.0));
        figures.add("slow", 10.0, "ms", Target::AtMost(5.0));
        figures.add("peer", 10.0, "ms", Target::None);
        assert_eq!(figures.missed(), 1);
        assert_eq!(figures.to_string().matches("MISSED").count(), 1);
        figures.leave_out("an engine", "it is not installed");
        assert_eq!(figures.missed(), 2, "nobody knows whether it is kept");
        assert!(figures.to_string().contains("NOT MEASURED: an engine: it is not installed"));
    }
}
