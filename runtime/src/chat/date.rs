//! The date that a template may ask for, given by the caller so that prompts are reproducible.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::ChatError;

/// A date and time of day, without a time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: i32,
    month: u8,
    day: u8,
    /// Second of the day.
    second: u32,
}

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

/// From Monday, as ISO 8601 counts.
const WEEKDAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

impl Date {
    /// Midnight of a day of the Gregorian calendar; none if there is no such day from year 1 to
    /// 9999.
    pub fn new(year: i32, month: u8, day: u8) -> Option<Self> {
        let valid = (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_of_month(year, month)).contains(&day);
        valid.then_some(Date {
            year,
            month,
            day,
            second: 0,
        })
    }

    /// The same day at this time; none if there is no such time.
    pub fn at(self, hour: u8, minute: u8, second: u8) -> Option<Self> {
        let valid = hour < 24 && minute < 60 && second < 60;
        valid.then_some(Date {
            second: u32::from(hour) * 3600 + u32::from(minute) * 60 + u32::from(second),
            ..self
        })
    }

    /// The system's clock, in UTC. Clocks before 1970 give 1970.
    pub fn now_utc() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since.unwrap_or(Duration::ZERO).as_secs();
        let (mut days, second) = (seconds / 86_400, (seconds % 86_400) as u32);
        let mut year = 1970;
        while year < 9999 && days >= u64::from(days_of_year(year)) {
            days -= u64::from(days_of_year(year));
            year += 1;
        }
        let mut month = 1;
        while month < 12 && days >= u64::from(days_of_month(year, month)) {
            days -= u64::from(days_of_month(year, month));
            month += 1;
        }
        Date {
            year,
            month,
            day: days.min(30) as u8 + 1,
            second,
        }
    }

    /// Day of the year, from 1.
    fn ordinal(&self) -> u32 {
        let before: u32 = (1..self.month)
            .map(|m| u32::from(days_of_month(self.year, m)))
            .sum();
        before + u32::from(self.day)
    }

    /// Days since Monday.
    fn weekday(&self) -> usize {
        let before = self.year - 1;
        let days = before * 365 + before / 4 - before / 100 + before / 400;
        // the first of January of year 1 is a Monday
        ((days + self.ordinal() as i32 - 1) % 7) as usize
    }

    /// Formats as C's `strftime` in the C locale. Known are the conversions
    /// `%Y %y %m %d %e %j %B %b %h %A %a %u %w %H %I %M %S %p %F %T %D %R %n %t %%`, and
    /// `%-` before one takes its padding away.
    ///
    /// # Errors
    /// The conversion that is not known.
    pub(super) fn format(&self, format: &str) -> Result<String, String> {
        let mut out = String::with_capacity(format.len() + 16);
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut conversion = rest.next();
            let plain = conversion == Some('-');
            if plain {
                conversion = rest.next();
            }
            let text = conversion.and_then(|c| self.convert(c));
            let text = text.ok_or_else(|| {
                let named = conversion.map_or_else(String::new, String::from);
                format!("strftime_now does not know '%{named}' of '{format}'")
            })?;
            let text = match plain && text.len() > 1 {
                true => match text.trim_start_matches(['0', ' ']) {
                    "" => "0",
                    trimmed => trimmed,
                },
                false => &text,
            };
            out.push_str(text);
        }
        Ok(out)
    }

    fn convert(&self, conversion: char) -> Option<String> {
        let (hour, minute, second) = (self.second / 3600, self.second / 60 % 60, self.second % 60);
        let month = MONTHS[usize::from(self.month) - 1];
        let weekday = WEEKDAYS[self.weekday()];
        let hour12 = (hour + 11) % 12 + 1;
        let (year, day) = (self.year, self.day);
        Some(match conversion {
            'Y' => year.to_string(),
            'y' => format!("{:02}", year % 100),
            'm' => format!("{:02}", self.month),
            'd' => format!("{day:02}"),
            'e' => format!("{day:2}"),
            'j' => format!("{:03}", self.ordinal()),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'u' => (self.weekday() + 1).to_string(),
            'w' => ((self.weekday() + 1) % 7).to_string(),
            'H' => format!("{hour:02}"),
            'I' => format!("{hour12:02}"),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            'p' => (if hour < 12 { "AM" } else { "PM" }).to_owned(),
            'F' => format!("{year}-{:02}-{day:02}", self.month),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'R' => format!("{hour:02}:{minute:02}"),
            'D' => format!("{:02}/{day:02}/{:02}", self.month, year % 100),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)?;
        match self.second {
            0 => Ok(()),
            s => write!(f, "T{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60),
        }
    }
}

impl FromStr for Date {
    type Err = ChatError;

    fn from_str(text: &str) -> Result<Self, ChatError> {
        let parse = || {
            let (date, time) = match text.split_once('T') {
                Some((date, time)) => (date, Some(time)),
                None => (text, None),
            };
            let mut parts = date.splitn(3, '-');
            let date = Date::new(
                parts.next()?.parse().ok()?,
                parts.next()?.parse().ok()?,
                parts.next()?.parse().ok()?,
            )?;
            let Some(time) = time else { return Some(date) };
            let mut parts = time.splitn(3, ':');
            date.at(
                parts.next()?.parse().ok()?,
                parts.next()?.parse().ok()?,
                parts.next()?.parse().ok()?,
            )
        };
        parse().ok_or_else(|| ChatError::Date {
            found: text.chars().take(40).collect(),
        })
    }
}

fn is_leap(year: i32) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_year(year: i32) -> u16 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of_month(year: i32, month: u8) -> u8 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_formatted_as_strftime_does() {
        let date: Date = "2024-07-05T13:07:09".parse().unwrap();
        let all = "%Y|%y|%m|%d|%e|%j|%B|%b|%A|%a|%u|%w|%H|%I|%M|%S|%p|%F|%T|%D|%R|%%|%-d|%-j|%-I";
        let expected = "2024|24|07|05| 5|187|July|Jul|Friday|Fri|5|5|13|01|07|09|PM|2024-07-05|13:07:09|07/05/24|13:07|%|5|187|1";
        assert_eq!(date.format(all).unwrap(), expected);
        assert_eq!(date.to_string(), "2024-07-05T13:07:09");
        assert!(date.format("%Q").unwrap_err().contains("'%Q'"));
        assert!(date.format("%").is_err());
    }

    #[test]
    fn weekdays_and_days_of_the_year_follow_the_calendar() {
        for (text, weekday, ordinal) in [
            ("1970-01-01", "Thursday", "001"),
            ("2000-02-29", "Tuesday", "060"),
            ("1900-12-31", "Monday", "365"),
            ("2024-12-31", "Tuesday", "366"),
        ] {
            let date: Date = text.parse().unwrap();
            assert_eq!(
                date.format("%A %j").unwrap(),
                format!("{weekday} {ordinal}")
            );
        }
        let now = Date::now_utc();
        assert_eq!(now.to_string().parse::<Date>().unwrap(), now);
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "2024",
            "2023-02-29",
            "2024-13-01",
            "2024-01-01T24:00:00",
            "x-1-1",
        ] {
            assert!(text.parse::<Date>().is_err(), "{text}");
        }
    }
}
