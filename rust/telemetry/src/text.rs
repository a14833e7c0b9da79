//! The text of a metrics file (Prometheus text format 0.0.4): families of samples, written and read.

use std::fmt::Write;

/// What kind of family, by Prometheus' word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Summary,
    Histogram,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Summary => "summary",
            Self::Histogram => "histogram",
        }
    }
}

/// Name, kind and help text of each family, in the order in which they are written.
pub const FAMILIES: [(&str, Kind, &str); 21] = [
    ("grootfs_commands_total", Kind::Counter, "Commands that ended, by command and outcome."),
    ("grootfs_command_duration_seconds", Kind::Histogram, "Time from the start of a command to its end."),
    ("grootfs_image_creation_seconds", Kind::Summary, "Time to make an image, failures included."),
    ("grootfs_image_resolve_seconds", Kind::Summary, "Time to find out what an image is made of."),
    ("grootfs_image_commit_seconds", Kind::Summary, "Time to make an image of complete layers: records, snapshot and limit."),
    ("grootfs_image_deletion_seconds", Kind::Summary, "Time to remove an image."),
    ("grootfs_image_stats_seconds", Kind::Summary, "Time to look up what an image uses."),
    ("grootfs_clean_seconds", Kind::Summary, "Time to clean."),
    ("grootfs_layer_download_seconds", Kind::Summary, "Time to fetch a layer."),
    ("grootfs_layer_unpack_seconds", Kind::Summary, "Time to unpack a layer."),
    (
        "grootfs_lock_wait_seconds",
        Kind::Summary,
        "Time until a lock was there: shared, of the store; exclusive, of a layer or the store; pull, to ask a registry.",
    ),
    ("grootfs_lock_hold_seconds", Kind::Summary, "Time a lock was held."),
    ("grootfs_downloaded_bytes_total", Kind::Counter, "Bytes of layers that came over the network."),
    ("grootfs_cloned_bytes_total", Kind::Counter, "Of those that were unpacked, bytes that other layers had already."),
    ("grootfs_mirror_failures_total", Kind::Counter, "Mirrors that were passed over or left, once a request."),
    ("grootfs_unpacked_bytes_total", Kind::Counter, "Bytes of file content in the layers that were unpacked."),
    ("grootfs_store_used_bytes", Kind::Gauge, "Used bytes of the store's file system, as of the last create or clean."),
    ("grootfs_used_layers_bytes", Kind::Gauge, "Bytes of the layers that images use, as of the last create, delete or clean."),
    ("grootfs_unused_layers_bytes", Kind::Gauge, "Bytes of the layers that no image uses, as of the last create, delete or clean."),
    ("grootfs_committed_quota_bytes", Kind::Gauge, "Sum of the disk limits of all images, as of the last create."),
    ("grootfs_filesystem_commits_total", Kind::Counter, "Commits of the store's file system since it was mounted (Linux 6.0)."),
];

/// Upper bounds in seconds: from a warm create to a large pull.
pub const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The line that says how much of the journal is in the file: the first record's id, and bytes.
const JOURNAL: &str = "# grootfs journal ";

/// The content of a file: of each family the samples, by what follows its name there (a suffix and the labels), in the order in
/// which they came.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Samples {
    rows: [Vec<(String, f64)>; FAMILIES.len()],
    /// How much of the journal is in here: its first record's id, and bytes.
    pub folded: Option<(String, u64)>,
}

impl Samples {
    /// Add one observation to a family, in the way of its kind. `labels`: names and values.
    pub fn observe(&mut self, family: &str, labels: &[(&str, &str)], value: f64) {
        let Some(index) = FAMILIES.iter().position(|(name, ..)| *name == family) else { return };
        let kind = FAMILIES[index].1;
        let key = braced(labels);
        match kind {
            Kind::Gauge => return self.set(family, labels, value),
            Kind::Counter => return self.add(index, key, value),
            Kind::Summary => {}
            Kind::Histogram => {
                for bound in BUCKETS.map(Some).into_iter().chain([None]) {
                    let text = bound.map_or("+Inf".to_owned(), |bound| bound.to_string());
                    let within = bound.is_none_or(|bound| value <= bound);
                    self.add(index, format!("_bucket{}", braced(&[labels, &[("le", &text)]].concat())), f64::from(u8::from(within)));
                }
            }
        }
        self.add(index, format!("_sum{key}"), value);
        self.add(index, format!("_count{key}"), 1.0);
    }

    /// Set a sample to a value, whatever it was.
    pub fn set(&mut self, family: &str, labels: &[(&str, &str)], value: f64) {
        if let Some(index) = FAMILIES.iter().position(|(name, ..)| *name == family) {
            *self.row(index, braced(labels)) = value;
        }
    }

    /// Drop all samples with a label.
    pub fn forget(&mut self, label: (&str, &str)) {
        let pair = braced(&[label]);
        let pair = pair.trim_matches(['{', '}']);
        let has = |rest: &str| rest.match_indices(pair).any(|(at, _)| rest[..at].ends_with(['{', ',']));
        self.rows.iter_mut().for_each(|rows| rows.retain(|(rest, _)| !has(rest)));
    }

    fn add(&mut self, index: usize, key: String, value: f64) {
        *self.row(index, key) += value;
    }

    fn row(&mut self, index: usize, key: String) -> &mut f64 {
        let rows = &mut self.rows[index];
        let at = rows.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            rows.push((key, 0.0));
            rows.len() - 1
        });
        &mut rows[at].1
    }

    /// The text of a file.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for ((family, kind, help), rows) in FAMILIES.iter().zip(&self.rows) {
            if rows.is_empty() {
                continue;
            }
            let _ = write!(text, "# HELP {family} {help}\n# TYPE {family} {}\n", kind.word());
            for (rest, value) in rows {
                let _ = writeln!(text, "{family}{rest} {}", seventeen_digits(*value));
            }
        }
        if let Some((first, bytes)) = &self.folded {
            let _ = writeln!(text, "{JOURNAL}{first} {bytes}");
        }
        text
    }

    /// The samples of a file that `render` made; `None` if it is from somebody else, or damaged. Families that are not ours are
    /// left out.
    pub fn parse(text: &str) -> Option<Self> {
        let mut samples = Self::default();
        for line in text.lines() {
            if let Some(place) = line.strip_prefix(JOURNAL) {
                let (first, bytes) = place.split_once(' ')?;
                samples.folded = Some((first.to_owned(), bytes.parse().ok()?));
                continue;
            }
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').unwrap_or(("", line));
            let name = sample.split('{').next().unwrap_or(sample);
            let mut stems = ["", "_bucket", "_sum", "_count"].into_iter().filter_map(|suffix| name.strip_suffix(suffix));
            let known = stems.find_map(|stem| FAMILIES.iter().position(|(family, ..)| *family == stem));
            if let Some(index) = known {
                let rest = sample[FAMILIES[index].0.len()..].to_owned();
                *samples.row(index, rest) = value.parse().ok()?;
            }
        }
        Some(samples)
    }
}

fn braced(labels: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")))
        .collect();
    format!("{{{}}}", pairs.join(","))
}

/// A number as C's `%.17g` writes it: enough digits to give the same number again.
fn seventeen_digits(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "nan"
        } else if value > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{value:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let strip = |text: &str| if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() };
    if (-4..17).contains(&exponent) {
        let decimals = usize::try_from(16 - exponent).unwrap_or(0);
        return strip(&format!("{value:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", strip(mantissa), exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Python's `f"{value:.17g}"` says.
    #[test]
    fn numbers_as_c_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (200.0, "200"),
            (400.254, "400.25400000000002"),
            (0.1, "0.10000000000000001"),
            (0.5, "0.5"),
            (0.000_123_4, "0.00012339999999999999"),
            (0.000_012_34, "1.234e-05"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e-300, "1e-300"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(seventeen_digits(value), text);
            assert!(text.parse::<f64>().unwrap().to_bits() == value.to_bits());
        }
    }

    #[test]
    fn each_kind_counts_in_its_way() {
        let mut samples = Samples::default();
        let store = [("store", "/s")];
        for value in [0.004, 400.0, 0.25] {
            samples.observe("grootfs_command_duration_seconds", &store, value);
        }
        for value in [7.0, 5.0] {
            samples.observe("grootfs_store_used_bytes", &store, value);
            samples.observe("grootfs_downloaded_bytes_total", &store, value);
            samples.observe("grootfs_clean_seconds", &[("store", "/a \"b\"\\\n")], value);
        }
        samples.observe("unknown", &store, 1.0);
        let text = samples.render();
        let buckets: Vec<_> = text.lines().filter(|line| line.contains("_bucket{")).map(|line| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!(buckets, ["1", "1", "1", "1", "1", "2", "2", "2", "2", "2", "2", "2", "2", "2", "3"]);
        for line in [
            "# TYPE grootfs_command_duration_seconds histogram",
            "grootfs_command_duration_seconds_bucket{store=\"/s\",le=\"0.005\"} 1",
            "grootfs_command_duration_seconds_bucket{store=\"/s\",le=\"+Inf\"} 3",
            "grootfs_command_duration_seconds_sum{store=\"/s\"} 400.25400000000002",
            "grootfs_command_duration_seconds_count{store=\"/s\"} 3",
            "grootfs_store_used_bytes{store=\"/s\"} 5",
            "grootfs_downloaded_bytes_total{store=\"/s\"} 12",
            "grootfs_clean_seconds_sum{store=\"/a \\\"b\\\"\\\\\\n\"} 12",
            "grootfs_clean_seconds_count{store=\"/a \\\"b\\\"\\\\\\n\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut samples = Samples::default();
        for (family, ..) in FAMILIES {
            samples.observe(family, &[("store", "/with blanks {x} 1"), ("lock", "shared")], 0.1);
        }
        samples.folded = Some(("0123".to_owned(), 77));
        let text = samples.render();
        let read = Samples::parse(&text).unwrap();
        assert_eq!(read, samples);
        assert_eq!(read.render(), text);
    }

    #[test]
    fn files_that_are_not_from_us() {
        assert_eq!(Samples::parse(""), Some(Samples::default()));
        assert_eq!(Samples::parse("nonsense\nother_total 5\n"), Some(Samples::default()));
        assert_eq!(Samples::parse("grootfs_commands_total{ x\n"), None);
    }
}
