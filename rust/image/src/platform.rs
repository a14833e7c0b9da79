//! Whom an image is for, and which of several variants suits best (OCI image specification, "Image Index"; containerd's
//! spellings).

use crate::document::{Map, Value};
use crate::error::{Error, Kind, Result};
use std::fmt;

/// Operating system, architecture and variant, in the words of image indexes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7`, ...; `None` where it is left open.
    pub variant: Option<String>,
}

impl Platform {
    /// With the architecture in Go's spelling, whichever it was in.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, implied) = match architecture {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "armhf" | "armv7l" => ("arm", Some("v7")),
            "armel" | "armv6l" => ("arm", Some("v6")),
            "armv8l" => ("arm", Some("v8")),
            "i386" | "i486" | "i586" | "i686" => ("386", None),
            "mips64" => ("mips64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        let variant = variant.filter(|variant| !variant.is_empty()).or(implied);
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// From `os`, `architecture` and `variant` of an index's entry or of a configuration; `None` if it does not say, or not in text.
    #[must_use]
    pub fn from_object(node: &Map<String, Value>) -> Option<Self> {
        let text = |key: &str| match node.get(key) {
            None | Some(Value::Null) => Some(""),
            Some(value) => value.as_str(),
        };
        let (os, architecture, variant) = (text("os")?, text("architecture")?, text("variant")?);
        (!os.is_empty() || !architecture.is_empty()).then(|| Self::new(os, architecture, Some(variant)))
    }

    /// The level that a variant stands for: a processor runs its own and those below. `None` for what has no order.
    fn level(&self) -> Option<u32> {
        let number = |text: &str| text.strip_prefix('v')?.parse().ok();
        match (self.architecture.as_str(), self.variant.as_deref()) {
            ("amd64", None) => Some(1),
            ("arm64", None) => Some(8),
            ("amd64" | "arm64" | "arm", Some(variant)) => number(variant),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// What a caller wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The platform. If it has a variant, nothing above that will do.
    pub platform: Platform,
    /// Whether the caller asked for it: then an image for another platform is an error, not a matter of a warning.
    pub explicit: bool,
    /// The highest level that this machine's processor runs; `None` if the platform is not this machine's.
    pub runs: Option<u32>,
}

impl Wanted {
    /// What this machine runs.
    #[must_use]
    pub fn this_machine() -> Self {
        let (platform, runs) = machine();
        Self { platform, explicit: false, runs }
    }

    /// `os/architecture[/variant]`, or nothing for this machine.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::this_machine());
        }
        let parts: Vec<_> = text.split('/').collect();
        let platform = match parts[..] {
            _ if parts.iter().any(|part| part.is_empty()) => None,
            [os, architecture] => Some(Platform::new(os, architecture, None)),
            [os, architecture, variant] => Some(Platform::new(os, architecture, Some(variant))),
            _ => None,
        };
        let Some(platform) = platform else {
            let text = groot_core::error::printable(text.as_bytes());
            return Err(Error::new(Kind::Config, format!("invalid platform `{text}`")).with_hint("write it as os/architecture[/variant]"));
        };
        let (own, runs) = machine();
        let runs = runs.filter(|_| own.os == platform.os && own.architecture == platform.architecture);
        Ok(Self { platform, explicit: true, runs })
    }

    /// The same for a document that an entry of an index led to. If that entry names a platform, the choice is made, and what the
    /// image's configuration says is reason for a warning alone.
    #[must_use]
    pub fn after(&self, chosen: Option<&Platform>) -> Self {
        Self { explicit: self.explicit && chosen.is_none(), ..self.clone() }
    }

    /// How well an image for `offered` suits; less is better, `None` will not do.
    ///
    /// The best is the highest variant that the processor runs; if none does, the lowest. Without a word on the variant, the
    /// image runs on every processor of its architecture.
    #[must_use]
    pub fn rank(&self, offered: &Platform) -> Option<u32> {
        const ABOVE: u32 = 1 << 16;
        let wanted = &self.platform;
        if (&offered.os, &offered.architecture) != (&wanted.os, &wanted.architecture) {
            return None;
        }
        if offered.variant == wanted.variant && offered.variant.is_some() {
            return Some(0);
        }
        let Some(level) = offered.level().map(|level| level.min(ABOVE)) else {
            // Nothing is known of such a variant: fine if none is said or none is asked for.
            return if offered.variant.is_none() { Some(1) } else { wanted.variant.is_none().then_some(2 * ABOVE) };
        };
        let most = if wanted.variant.is_some() { Some(wanted.level()?) } else { self.runs };
        match most {
            Some(most) if level <= most => Some(2 * (most.min(ABOVE) - level)),
            _ if wanted.variant.is_some() => None,
            _ => Some(ABOVE + level),
        }
    }

    /// The error for a choice that has nothing for this platform, in the original's words; `found` is what there is.
    #[must_use]
    pub fn missing(&self, found: &[Platform], place: &str) -> Error {
        let wanted = &self.platform;
        let variant = wanted.variant.as_ref().map(|variant| format!(", variant {variant}")).unwrap_or_default();
        let text = format!("no image found in manifest list for architecture {}{variant}, OS {}", wanted.architecture, wanted.os);
        let mut names: Vec<_> = found.iter().map(|platform| groot_core::error::printable(platform.to_string().as_bytes())).collect();
        names.sort_unstable();
        names.dedup();
        names.truncate(32);
        let names = if names.is_empty() { "no image with a platform".to_owned() } else { names.join(", ") };
        Error::image(text).with_hint(format!("{place} holds: {names}"))
    }
}

/// This machine's platform, and the highest level that its processor runs.
fn machine() -> (Platform, Option<u32>) {
    let machine = rustix::system::uname();
    let own = Platform::new("linux", &machine.machine().to_string_lossy(), None);
    let runs = if own.architecture == "amd64" { Some(x86_64_level()) } else { own.level() };
    // What the processor runs says more than one variant does.
    (Platform { variant: None, ..own }, runs)
}

/// The processor's level by the x86-64 psABI. (`lahf` is not asked for: every processor with the rest of level 2 has it.)
#[cfg(target_arch = "x86_64")]
fn x86_64_level() -> u32 {
    use std::arch::is_x86_feature_detected as has;
    let levels = [
        has!("cmpxchg16b") && has!("popcnt") && has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2"),
        has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c") && has!("fma") && has!("lzcnt") && has!("movbe"),
        has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl"),
    ];
    1 + levels.iter().take_while(|level| **level).count() as u32
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_64_level() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let parts: Vec<_> = text.split('/').collect();
        Platform::new(parts[0], parts[1], parts.get(2).copied())
    }

    /// The best of `offered` for what is asked for on a processor of level `runs`.
    fn best<'a>(wanted: &str, runs: Option<u32>, offered: &[&'a str]) -> Option<&'a str> {
        let wanted = Wanted { platform: platform(wanted), explicit: true, runs };
        let ranked = offered.iter().filter_map(|text| Some((wanted.rank(&platform(text))?, *text)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, text)| text)
    }

    #[test]
    fn the_best_level_that_the_processor_runs() {
        let v1 = ["linux/amd64/v2", "linux/amd64/v1"];
        assert_eq!(best("linux/amd64", Some(1), &v1), Some("linux/amd64/v1"));
        assert_eq!(best("linux/amd64", Some(3), &v1), Some("linux/amd64/v2"));
        let high = ["linux/amd64/v4", "linux/amd64/v3", "linux/amd64/v2"];
        assert_eq!(best("linux/amd64", Some(3), &high), Some("linux/amd64/v3"));
        assert_eq!(best("linux/amd64", Some(1), &high), Some("linux/amd64/v2"));
        assert_eq!(best("linux/amd64", None, &high), Some("linux/amd64/v2"));
        assert_eq!(best("linux/amd64", Some(2), &["linux/amd64/v3", "linux/amd64"]), Some("linux/amd64"));
    }

    #[test]
    fn a_variant_that_is_asked_for_is_a_bound() {
        assert_eq!(best("linux/amd64/v2", Some(4), &["linux/amd64/v3", "linux/amd64", "linux/amd64/v2"]), Some("linux/amd64/v2"));
        assert_eq!(best("linux/amd64/v2", Some(4), &["linux/amd64/v3"]), None);
        for (offered, expected) in [
            (&["linux/arm/v6", "linux/arm/v7"][..], Some("linux/arm/v7")),
            (&["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], Some("linux/arm/v6")),
            (&["linux/arm/v5", "linux/arm"], Some("linux/arm")),
            (&["linux/arm/v8"], None),
            (&["linux/arm64"], None),
        ] {
            assert_eq!(best("linux/arm/v7", None, offered), expected, "{offered:?}");
        }
        assert_eq!(best("linux/arm64/v8", None, &["linux/arm64/v9"]), None);
        assert_eq!(best("linux/arm64/v8", None, &["linux/arm64"]), Some("linux/arm64"));
    }

    #[test]
    fn variants_without_an_order() {
        assert_eq!(best("linux/riscv64", None, &["linux/riscv64/rva23u64", "linux/riscv64"]), Some("linux/riscv64"));
        assert_eq!(best("linux/riscv64", None, &["linux/riscv64/rva23u64"]), Some("linux/riscv64/rva23u64"));
        assert_eq!(best("linux/ppc64le/power9", None, &["linux/ppc64le/power8"]), None);
    }

    #[test]
    fn other_systems_will_not_do() {
        assert_eq!(best("linux/amd64", Some(1), &["windows/amd64", "linux/s390x", "unknown/unknown"]), None);
    }

    #[test]
    fn spellings() {
        assert_eq!(platform("linux/x86_64"), platform("linux/amd64"));
        assert_eq!(platform("linux/armhf").to_string(), "linux/arm/v7");
        assert_eq!(platform("linux/arm64/v8").to_string(), "linux/arm64/v8");
        assert_eq!(Wanted::parse("").unwrap(), Wanted::this_machine());
        for bad in ["linux", "linux/", "/a", "a/b/c/d", "a//b"] {
            assert_eq!(Wanted::parse(bad).unwrap_err().kind, Kind::Config, "{bad}");
        }
    }

    #[test]
    fn this_machine_runs_what_it_is() {
        let own = Wanted::this_machine();
        assert_eq!(own.rank(&own.platform), own.rank(&own.platform.clone()));
        assert!(own.rank(&own.platform).is_some());
    }
}
