//! When a run was trained, and on what machine.

use std::io::{BufRead, BufReader};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// When a run was trained, and on what machine. What is not known is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// When it ended: date and time by ISO 8601, in UTC, such as `2026-03-01T12:30:00Z`.
    pub date: Option<String>,
    /// The processor's name; only Linux tells it, and not of every processor.
    pub processor: Option<String>,
    /// The operating system and the processor's kind, such as `linux, x86_64`.
    pub system: Option<String>,
    /// How many threads were at work.
    pub threads: Option<usize>,
}

impl Record {
    /// This machine and this moment.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        let (system, kind) = (std::env::consts::OS, std::env::consts::ARCH);
        Self {
            date: since.map(|since| date(since.as_secs())),
            processor: processor(),
            system: Some(format!("{system}, {kind}")),
            threads: Some(rayon::current_num_threads()),
        }
    }
}

/// The name of the first processor that Linux lists.
fn processor() -> Option<String> {
    let list = std::fs::File::open("/proc/cpuinfo").ok()?;
    let mut lines = BufReader::new(list).lines().map_while(Result::ok);
    let line = lines.find(|line| line.starts_with("model name"))?;
    let (_, name) = line.split_once(':')?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Seconds since 1970 as a date and a time. The calendar repeats every 400 years of 146,097 days; with years that begin
/// in March, the day that some have more is their last.
fn date(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // From 1 March of the year 0 on.
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (year, month + 3),
        _ => (year + 1, month - 9),
    };
    let year = 400 * cycle + year;
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `date -u -d @SECONDS +%FT%TZ`.
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, written) in [
            (0, "1970-01-01T00:00:00Z"),
            (68_169_599, "1972-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(seconds), written);
        }
    }

    #[test]
    fn a_day_after_a_day_is_the_next_one() {
        let mut last = date(0);
        let mut lengths = std::collections::BTreeMap::<String, u32>::new();
        for day in 1..=200 * 366 {
            let next = date(day * 86_400);
            assert!(next > last, "{last} {next}");
            *lengths.entry(next[..7].to_owned()).or_default() += 1;
            last = next;
        }
        assert!(lengths.values().all(|days| *days <= 31));
    }
}
