//! ISO 8601 times in their common form: `YYYY-MM-DDTHH:MM:SS[.fraction]`, then `Z`, `±HH:MM`, `±HHMM` or nothing.

use crate::json::{Odd, Read};

/// 9999-12-31T23:59:59.999Z
pub const TIME_MS_MAX: i64 = 253_402_300_799_999;

/// A smaller number is surely one of seconds.
pub const NUMBER_MS_MIN: i64 = 100_000_000_000;

/// Return the ms since 1970 UTC of a time, cut to whole ones; `Odd` for another form, and for what is no time.
pub fn parse(text: &str) -> Read<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 19 {
        return Err(Odd);
    }
    let number = |from: usize, to: usize| -> Read<i64> {
        bytes[from..to].iter().try_fold(0, |sum, byte| match byte {
            b'0'..=b'9' => Ok(sum * 10 + i64::from(byte - b'0')),
            _ => Err(Odd),
        })
    };
    let separated = bytes[4] == b'-' && bytes[7] == b'-' && matches!(bytes[10], b'T' | b' ');
    if !(separated && bytes[13] == b':' && bytes[16] == b':') {
        return Err(Odd);
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) || hour > 23 || minute > 59 || second > 59 {
        return Err(Odd);
    }
    let mut at = 19;
    let mut ms = 0;
    if bytes.get(at) == Some(&b'.') {
        at += 1;
        let start = at;
        while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
            if at - start < 3 {
                ms += i64::from(digit - b'0') * [100, 10, 1][at - start];
            }
            at += 1;
        }
        if at == start {
            return Err(Odd);
        }
    }
    let offset_min = match (bytes.get(at), bytes.len() - at) {
        (None, _) => 0,
        (Some(b'Z'), 1) => 0,
        (Some(sign @ (b'+' | b'-')), left @ (5 | 6)) => {
            if left == 6 && bytes[at + 3] != b':' {
                return Err(Odd);
            }
            let (hours, minutes) = (number(at + 1, at + 3)?, number(bytes.len() - 2, bytes.len())?);
            if hours > 23 || minutes > 59 {
                return Err(Odd);
            }
            let total = hours * 60 + minutes;
            if *sign == b'-' {
                -total
            } else {
                total
            }
        }
        _ => return Err(Odd),
    };
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + (minute - offset_min) * 60 + second;
    let found = seconds * 1000 + ms;
    if (0..=TIME_MS_MAX).contains(&found) {
        Ok(found)
    } else {
        Err(Odd)
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Count the days of a year that begins in March, so that the odd day of leap years is its last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 719_469
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_their_common_form_are_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-23T08:00:00.123Z", 1_795_420_800_123),
            ("2026-11-23 08:00:00.123999", 1_795_420_800_123),
            ("2026-11-23T08:00:00.1+08:00", 1_795_392_000_100),
            ("2026-11-23T08:00:00-0130", 1_795_426_200_000),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("9999-12-31T23:59:59.999Z", TIME_MS_MAX),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn everything_else_is_odd() {
        for text in [
            "",
            "2026-11-23",
            "2026-11-23T08:00Z",
            "2026-11-23T08:00:00z",
            "2026-11-23T24:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-23T08:00:60Z",
            "2026-11-23T08:00:00.Z",
            "2026-11-23T08:00:00+8",
            "2026-11-23T08:00:00+24:00",
            "2026-11-23T08:00:00+08:60",
            "2026-11-23T08:00:00Z ",
            "2026-13-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "2026-11-23T08:00:0\u{661}Z",
            "2026-11-23T08:00:00+08-00",
            "+026-11-23T08:00:00",
        ] {
            assert_eq!(parse(text), Err(Odd), "{text}");
        }
    }
}
