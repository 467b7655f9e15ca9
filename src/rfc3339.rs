//! RFC 3339 as microseconds since 1970. Refuses what the RFC does; a leap second is the second after it.

/// Digits of a fraction that count; further ones are cut off.
const FRACTION_DIGITS: usize = 6;

/// `2026-11-24T05:00:00.25+01:00`; none for any other text.
pub fn rfc3339_us(text: &str) -> Option<i64> {
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let (time, rest) = text.as_bytes().split_at_checked(shape.len())?;
    let fits = |(byte, wanted): (&u8, &u8)| match wanted {
        b'd' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b't' | b' '),
        _ => byte == wanted,
    };
    if !time.iter().zip(shape).all(fits) {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let is_valid = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !is_valid {
        return None;
    }
    let (fraction_us, zone) = split_fraction(rest)?;
    let days = days_since_1970(year, month, day);
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - zone_seconds(zone)?;
    Some(seconds * 1_000_000 + fraction_us)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Howard Hinnant's days_from_civil: years begin in March, so that a leap day is the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The fraction in microseconds, and what follows it.
fn split_fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some(rest) = rest.strip_prefix(b".") else {
        return Some((0, rest));
    };
    let n = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, zone) = rest.split_at(n);
    if digits.is_empty() {
        return None;
    }
    let mut us = 0;
    for at in 0..FRACTION_DIGITS {
        us = us * 10 + digits.get(at).map_or(0, |digit| i64::from(digit - b'0'));
    }
    Some((us, zone))
}

/// How far the zone is ahead of UTC.
fn zone_seconds(zone: &[u8]) -> Option<i64> {
    let (sign, [h, hh, b':', m, mm]) = (match zone {
        b"Z" | b"z" => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    }) else {
        return None;
    };
    if ![h, hh, m, mm].into_iter().all(u8::is_ascii_digit) {
        return None;
    }
    let two = |tens: &u8, ones: &u8| i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
    let (hours, minutes) = (two(h, hh), two(m, mm));
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_as_the_rfc_says() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2023-11-14T22:13:20.25Z", Some(1_700_000_000_250_000)),
            (
                "2023-11-14T23:13:20.1234567+01:00",
                Some(1_700_000_000_123_456),
            ),
            ("2023-11-14t17:43:20-04:30", Some(1_700_000_000_000_000)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000_000)),
            ("2023-02-29T00:00:00Z", None),
            ("1900-02-29T00:00:00Z", None),
            ("2023-13-01T00:00:00Z", None),
            ("2023-11-14T24:00:00Z", None),
            ("2023-11-14T22:13:20", None),
            ("2023-11-14T22:13:20.Z", None),
            ("2023-11-14T22:13:20+1:00", None),
            ("2023-11-14T22:13:20+01:60", None),
            ("20é3-11-14T22:13:20Z", None),
            ("", None),
        ] {
            assert_eq!(rfc3339_us(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_none(text in ".{0,40}") {
            let _ = rfc3339_us(&text);
        }
    }
}
