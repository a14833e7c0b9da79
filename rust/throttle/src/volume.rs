//! What a volume lets through, and when: the arithmetic, without a clock or a disk.
//!
//! Counted is as Amazon counts (*Amazon EBS User Guide*, "Amazon EBS I/O characteristics and monitoring"): requests that follow one
//! another on the volume are joined up to 256 KiB into one operation, a larger one counts once for each 256 KiB. Requests are joined
//! while the earlier one waits: what has begun is not joined with anything.

use serde_json::{Value, json};

/// Bytes of the largest operation.
pub const OPERATION: u64 = 256 * 1024;

/// Microseconds since the program began.
pub type Micros = f64;

const SECOND: Micros = 1e6;

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the volume.
    Read,
    /// To the volume.
    Write,
}

/// What a volume allows. None is without a limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Operations a second, reads and writes together.
    pub iops: Option<f64>,
    /// How many operations of the budget a write takes: 2 where a device does half as many writes as reads.
    pub write_cost: f64,
    /// Bytes a second, both ways together.
    pub bytes_per_second: Option<f64>,
    /// How long every operation takes at least.
    pub latency: Micros,
    /// Operations a second while there are credits; they are earned at the rate of `iops`.
    pub burst_iops: Option<f64>,
    /// Credits of a full bucket.
    pub bucket: f64,
    /// Credits at the beginning.
    pub credits: f64,
}

impl Limits {
    /// Of a JSON object with the fields' names, `latency_us` for the latency; what is missing or null is without a limit. None
    /// where a value is no number, or none that can be.
    #[must_use]
    pub fn read(document: &Value) -> Option<Self> {
        let fields = document.as_object()?;
        let number = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(value) => value.as_f64().filter(|number| number.is_finite() && *number >= 0.0).map(Some),
        };
        let positive = |name: &str| number(name).filter(|found| found.is_none_or(|number| number > 0.0));
        let bucket = number("bucket")?.unwrap_or(0.0);
        Some(Self {
            iops: positive("iops")?,
            write_cost: positive("write_cost")?.unwrap_or(1.0),
            bytes_per_second: positive("bytes_per_second")?,
            latency: number("latency_us")?.unwrap_or(0.0),
            burst_iops: positive("burst_iops")?,
            bucket,
            credits: number("credits")?.unwrap_or(bucket).min(bucket),
        })
    }
}

/// What went through since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Operations that read, as Amazon counts.
    pub reads: u64,
    /// Operations that wrote.
    pub writes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests as they came, before they were joined.
    pub requests: u64,
    /// Of these, those that became part of an operation before them.
    pub joined: u64,
    /// Time in which something waited because of `iops`.
    pub above_iops: Micros,
    /// Time in which something waited because of `bytes_per_second`.
    pub above_bytes: Micros,
}

/// An operation that waits, and what may still be joined to it.
struct Waiting {
    way: Way,
    end: u64,
    left: u64,
    begun: Micros,
    due: Micros,
}

/// A volume at a moment.
#[derive(Default)]
pub struct Volume {
    limits: Limits,
    counters: Counters,
    credits: f64,
    credits_at: Micros,
    next_operation: Micros,
    next_byte: Micros,
    counted_iops: Micros,
    counted_bytes: Micros,
    waiting: Vec<Waiting>,
}

impl Volume {
    /// Have other limits from now on. What waits is answered when it was to be.
    pub fn limit(&mut self, limits: Limits, now: Micros) {
        self.credits = limits.credits;
        self.credits_at = now;
        self.next_operation = now;
        self.next_byte = now;
        self.limits = limits;
    }

    /// When a request that comes now is answered.
    pub fn admit(&mut self, way: Way, offset: u64, bytes: u64, now: Micros) -> Micros {
        self.waiting.retain(|operation| operation.begun > now);
        self.counters.requests += 1;
        match way {
            Way::Read => self.counters.read_bytes += bytes,
            Way::Write => self.counters.written_bytes += bytes,
        }
        let paid = self.pay_bytes(bytes, now);
        if let Some(operation) =
            self.waiting.iter_mut().find(|operation| operation.way == way && operation.end == offset && operation.left >= bytes)
        {
            self.counters.joined += 1;
            operation.end += bytes;
            operation.left -= bytes;
            operation.due = operation.due.max(paid + self.limits.latency);
            return operation.due;
        }
        let operations = bytes.div_ceil(OPERATION).max(1);
        let mut begun = now;
        for _ in 0..operations {
            begun = self.pay_operation(way, now);
        }
        match way {
            Way::Read => self.counters.reads += operations,
            Way::Write => self.counters.writes += operations,
        }
        let begun = begun.max(paid);
        let due = begun + self.limits.latency;
        if begun > now {
            self.waiting.push(Waiting { way, end: offset + bytes, left: operations * OPERATION - bytes, begun, due });
        }
        due
    }

    /// When the next operation may begin, which is taken.
    fn pay_operation(&mut self, way: Way, now: Micros) -> Micros {
        let Some(iops) = self.limits.iops else { return now };
        let cost = if way == Way::Write { self.limits.write_cost } else { 1.0 };
        let mut begun = now.max(self.next_operation);
        let mut pace = iops;
        if let Some(burst) = self.limits.burst_iops {
            pace = burst;
            self.credits = (self.credits + (begun - self.credits_at) * iops / SECOND).min(self.limits.bucket);
            if self.credits < cost {
                begun += (cost - self.credits) * SECOND / iops;
                self.credits = cost;
            }
            self.credits -= cost;
            self.credits_at = begun;
        }
        self.next_operation = begun + cost * SECOND / pace;
        if begun > now {
            self.counters.above_iops += begun - self.counted_iops.max(now).min(begun);
            self.counted_iops = self.counted_iops.max(begun);
        }
        begun
    }

    /// When so many bytes are through.
    fn pay_bytes(&mut self, bytes: u64, now: Micros) -> Micros {
        let Some(rate) = self.limits.bytes_per_second else { return now };
        let begun = now.max(self.next_byte);
        #[expect(clippy::cast_precision_loss, reason = "a request has megabytes at most")]
        let through = begun + bytes as f64 * SECOND / rate;
        self.next_byte = through;
        if begun > now {
            self.counters.above_bytes += begun - self.counted_bytes.max(now).min(begun);
            self.counted_bytes = self.counted_bytes.max(begun);
        }
        through
    }

    /// What went through, and the credits that are left (null without a bucket).
    #[must_use]
    pub fn report(&self, now: Micros) -> Value {
        let Counters { reads, writes, read_bytes, written_bytes, requests, joined, above_iops, above_bytes } = self.counters;
        let earned = (now - self.credits_at).max(0.0) * self.limits.iops.unwrap_or(0.0) / SECOND;
        let credits = self.limits.burst_iops.map(|_| (self.credits + earned).min(self.limits.bucket));
        json!({
            "reads": reads, "writes": writes, "read_bytes": read_bytes, "written_bytes": written_bytes, "requests": requests,
            "joined": joined, "above_iops_us": above_iops.round(), "above_bytes_us": above_bytes.round(), "credits": credits,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(limits: &Value) -> Volume {
        let mut volume = Volume::default();
        volume.limit(Limits::read(limits).unwrap(), 0.0);
        volume
    }

    /// When the last of so many requests of 8 KiB, all there at once and far from one another, is answered.
    fn last_of(volume: &mut Volume, way: Way, count: u64, now: Micros) -> Micros {
        (0..count).map(|number| volume.admit(way, number * (1 << 20), 8192, now)).fold(0.0, f64::max)
    }

    #[test]
    fn operations_are_spaced() {
        let mut volume = volume(&json!({"iops": 500}));
        assert!((last_of(&mut volume, Way::Write, 501, 0.0) - SECOND).abs() < 1.0);
        assert_eq!((volume.counters.writes, volume.counters.joined), (501, 0));
        assert!((volume.counters.above_iops - SECOND).abs() < 1.0, "{}", volume.counters.above_iops);
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let mut volume = volume(&json!({"iops": 500}));
        assert!((last_of(&mut volume, Way::Read, 101, 60.0 * SECOND) - 60.2 * SECOND).abs() < 1.0);
    }

    #[test]
    fn neighbours_that_wait_are_one_operation() {
        let mut volume = volume(&json!({"iops": 10}));
        volume.admit(Way::Write, 1 << 30, 4096, 0.0);
        let due: Vec<Micros> = (0..128).map(|number| volume.admit(Way::Write, number * 4096, 4096, 0.0)).collect();
        assert_eq!((volume.counters.writes, volume.counters.joined), (3, 126), "512 KiB are two operations");
        assert!(due[0] < due[127] && due[0].to_bits() == due[63].to_bits() && due[64].to_bits() == due[127].to_bits());
        volume.admit(Way::Read, 128 * 4096, 4096, 0.0);
        assert_eq!(volume.counters.reads, 1, "not with the other way");
    }

    #[test]
    fn what_has_begun_is_not_joined() {
        let mut volume = volume(&json!({"iops": 1000, "latency_us": 5000}));
        for number in 0..10_u32 {
            volume.admit(Way::Write, u64::from(number) * 4096, 4096, f64::from(number) * 2000.0);
        }
        assert_eq!((volume.counters.writes, volume.counters.joined), (10, 0));
    }

    #[test]
    fn large_ones_count_by_their_size() {
        let mut volume = volume(&json!({"iops": 100}));
        let due = volume.admit(Way::Write, 0, 1280 * 1024, 0.0);
        assert_eq!(volume.counters.writes, 5);
        assert!((due - 0.04 * SECOND).abs() < 1.0, "the fifth begins after four others");
    }

    #[test]
    fn bytes_have_a_limit_of_their_own() {
        let mut volume = volume(&json!({"iops": 3000, "bytes_per_second": 1024 * 1024}));
        assert!((volume.admit(Way::Write, 0, 1024 * 1024, 0.0) - SECOND).abs() < 1.0);
        assert!((volume.admit(Way::Read, 1 << 30, 512 * 1024, 0.0) - 1.5 * SECOND).abs() < 1.0);
        assert!((volume.counters.above_bytes - SECOND).abs() < 1.0);
        assert!(volume.counters.above_iops < 0.01 * SECOND);
    }

    #[test]
    fn latency_comes_on_top_and_takes_nothing() {
        let mut volume = volume(&json!({"iops": 1000, "latency_us": 700}));
        assert!((volume.admit(Way::Read, 0, 4096, 0.0) - 700.0).abs() < 0.1);
        assert!((volume.admit(Way::Read, 1 << 20, 4096, 0.0) - 1700.0).abs() < 0.1);
    }

    #[test]
    fn writes_may_cost_more() {
        let mut volume = volume(&json!({"iops": 30_000, "write_cost": 2}));
        assert!((last_of(&mut volume, Way::Write, 15_001, 0.0) - SECOND).abs() < 100.0);
        assert!((last_of(&mut volume, Way::Read, 30_001, 10.0 * SECOND) - 11.0 * SECOND).abs() < 100.0);
    }

    #[test]
    fn credits_are_drained_and_earned() {
        let mut volume = volume(&json!({"iops": 100, "burst_iops": 3000, "bucket": 5_400_000, "credits": 29_000}));
        let drained = last_of(&mut volume, Way::Write, 30_000, 0.0);
        assert!((drained - 10.0 * SECOND).abs() < 0.1 * SECOND, "29,000 and the 1,000 earned meanwhile: {drained}");
        let slow = last_of(&mut volume, Way::Write, 101, drained) - drained;
        assert!((slow - SECOND).abs() < 0.1 * SECOND, "then what is earned: {slow}");
        let saved = drained + 61.0 * SECOND;
        assert!((volume.report(saved)["credits"].as_f64().unwrap() - 6000.0).abs() < 20.0);
        let fast = last_of(&mut volume, Way::Write, 3001, saved) - saved;
        assert!((fast - SECOND).abs() < 0.01 * SECOND, "and a burst again: {fast}");
    }

    #[test]
    fn without_limits_nothing_waits() {
        let mut volume = volume(&json!({}));
        assert_eq!(last_of(&mut volume, Way::Write, 1000, 5.0).to_bits(), 5.0_f64.to_bits());
        assert_eq!(volume.counters.writes, 1000);
    }

    #[test]
    fn limits_that_are_none() {
        for text in ["[]", r#"{"iops": 0}"#, r#"{"iops": -1}"#, r#"{"iops": "5"}"#, r#"{"bytes_per_second": 0}"#, r#"{"latency_us": -1}"#] {
            assert_eq!(Limits::read(&serde_json::from_str(text).unwrap()), None, "{text}");
        }
    }
}
