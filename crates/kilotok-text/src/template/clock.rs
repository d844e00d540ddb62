//! `strftime_now` for templates that print today's date.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// What time it is, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The system's clock.
    System,
    /// Always the same moment, for reproducible prompts.
    Fixed {
        /// Seconds since 1970-01-01T00:00:00Z.
        unix_seconds: i64,
    },
}

impl Clock {
    /// Formats the present like Python's `strftime` in the C locale. Unknown directives are kept
    /// as written.
    pub(super) fn strftime(self, format: &str) -> String {
        let seconds = match self {
            Self::Fixed { unix_seconds } => unix_seconds,
            Self::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0)),
        };
        Moment::new(seconds).format(format)
    }
}

struct Moment {
    year: i64,
    month: usize,
    day: i64,
    weekday: usize,
    day_of_year: i64,
    second_of_day: i64,
}

impl Moment {
    /// Proleptic Gregorian calendar, counted in eras of 400 years that start on 1 March.
    fn new(unix_seconds: i64) -> Self {
        let days = unix_seconds.div_euclid(86_400);
        let from_era_zero = days + 719_468;
        let era = from_era_zero.div_euclid(146_097);
        let day_of_era = from_era_zero.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let day_of_year =
            if month > 2 { day_from_march + 60 + i64::from(leap) } else { day_from_march - 305 };
        Self {
            year,
            month: month as usize,
            day: day_from_march - (153 * month_from_march + 2) / 5 + 1,
            weekday: (days + 4).rem_euclid(7) as usize,
            day_of_year,
            second_of_day: unix_seconds.rem_euclid(86_400),
        }
    }

    fn format(&self, format: &str) -> String {
        let mut out = String::with_capacity(format.len());
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            let directive = &rest[at + 1..];
            let unpadded = directive.strip_prefix('-');
            let Some(letter) = unpadded.unwrap_or(directive).chars().next() else {
                out.push_str(&rest[at..]);
                return out;
            };
            let used = 1 + usize::from(unpadded.is_some()) + letter.len_utf8();
            if !self.write(&mut out, letter, unpadded.is_some()) {
                out.push_str(&rest[at..at + used]);
            }
            rest = &rest[at + used..];
        }
        out.push_str(rest);
        out
    }

    fn write(&self, out: &mut String, letter: char, unpadded: bool) -> bool {
        let (hour, minute) = (self.second_of_day / 3600, self.second_of_day / 60 % 60);
        let hour12 = (hour + 11) % 12 + 1;
        let (number, width) = match letter {
            'd' => (self.day, 2),
            'm' => (self.month as i64, 2),
            'y' => (self.year.rem_euclid(100), 2),
            'Y' => (self.year, 1),
            'H' => (hour, 2),
            'I' => (hour12, 2),
            'M' => (minute, 2),
            'S' => (self.second_of_day % 60, 2),
            'j' => (self.day_of_year, 3),
            'w' => (self.weekday as i64, 1),
            _ => return self.write_text(out, letter),
        };
        let width = if unpadded { 1 } else { width };
        write!(out, "{number:0width$}").is_ok()
    }

    fn write_text(&self, out: &mut String, letter: char) -> bool {
        let (day, month) = (DAYS[self.weekday], MONTHS[self.month - 1]);
        match letter {
            'A' => out.push_str(day),
            'a' => out.push_str(&day[..3]),
            'B' => out.push_str(month),
            'b' | 'h' => out.push_str(&month[..3]),
            'p' => out.push_str(if self.second_of_day < 43_200 { "AM" } else { "PM" }),
            'F' => out.push_str(&self.format("%Y-%m-%d")),
            'T' => out.push_str(&self.format("%H:%M:%S")),
            '%' => out.push('%'),
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn dates_are_the_calendars() {
        // Reference: Python's datetime.fromtimestamp(seconds, timezone.utc).strftime(...).
        let expected = [
            (0, "Thursday 01 January 1970 001 12:00:00 AM"),
            (951_782_400, "Tuesday 29 February 2000 060 12:00:00 AM"),
            (1_735_689_599, "Tuesday 31 December 2024 366 11:59:59 PM"),
            (1_709_294_400, "Friday 01 March 2024 061 12:00:00 PM"),
            (4_107_542_400, "Monday 01 March 2100 060 12:00:00 AM"),
            (-1, "Wednesday 31 December 1969 365 11:59:59 PM"),
        ];
        for (unix_seconds, text) in expected {
            let clock = Clock::Fixed { unix_seconds };
            assert_eq!(clock.strftime("%A %d %B %Y %j %I:%M:%S %p"), text);
        }
        let clock = Clock::Fixed { unix_seconds: 1_709_596_800 };
        assert_eq!(
            clock.strftime("%-d %b %y, %F %T 100%% %Q %"),
            "5 Mar 24, 2024-03-05 00:00:00 100% %Q %"
        );
    }
}
