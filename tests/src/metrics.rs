//! Reading `/metrics`: just enough of the Prometheus text format to ask for a number.

/// One look at all metrics.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Sample>);

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: String,
    value: f64,
}

impl Metrics {
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            Some(Sample {
                name: name.to_owned(),
                labels: labels.trim_end_matches('}').to_owned(),
                value: value.parse().ok()?,
            })
        });
        Self(samples.collect())
    }

    /// The sum over all series of this name that carry all of these labels; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.split(',').any(|l| l == format!("{key}=\"{value}\"")))
        };
        self.0.iter().filter(carries).map(|sample| sample.value).sum()
    }

    /// The upper bound of the histogram bucket that holds this quantile, or the summary's own answer.
    pub fn quantile(&self, name: &str, quantile: f64) -> Option<f64> {
        let total = self.sum(&format!("{name}_count"), &[]);
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for sample in self.0.iter().filter(|sample| sample.name == format!("{name}_bucket")) {
            let bound = sample.labels.split(',').find_map(|label| label.strip_prefix("le=\""))?.trim_end_matches('"');
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            match buckets.iter_mut().find(|bucket| bucket.0 == bound) {
                Some(bucket) => bucket.1 += sample.value,
                None => buckets.push((bound, sample.value)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        buckets.into_iter().find(|bucket| bucket.1 >= total * quantile).map(|bucket| bucket.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_only_the_series_with_the_labels() {
        let metrics = Metrics::parse(
            "# TYPE a counter\na{result=\"new\",x=\"1\"} 2\na{result=\"old\"} 3\na_bucket{le=\"0.1\"} 9\na_bucket{le=\"+Inf\"} 10\na_count 10\nplain 7\n",
        );
        assert_eq!(metrics.sum("a", &[("result", "new")]), 2.0);
        assert_eq!(metrics.sum("a", &[]), 5.0);
        assert_eq!(metrics.sum("plain", &[]), 7.0);
        assert_eq!(metrics.quantile("a", 0.5), Some(0.1));
        assert_eq!(metrics.quantile("a", 0.99), Some(f64::INFINITY));
    }
}
