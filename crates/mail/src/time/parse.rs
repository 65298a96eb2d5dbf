//! Reads what clocks of others wrote.

/// The milliseconds since 1970 of a `date-time` (RFC 3339 §5.6).
pub(super) fn rfc3339(text: &str) -> Option<u64> {
    let (date, rest) = text.split_at_checked("2026-11-21".len())?;
    let rest = rest.strip_prefix(['T', 't'])?;
    let (time, rest) = rest.split_at_checked("09:30:00".len())?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let (millis, zone) = fraction(rest)?;
    let proper = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
    u64::try_from(seconds * 1000 + millis).ok().filter(|_| proper)
}

/// Numbers of exactly so many digits with a separator between them.
fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// `.123` as milliseconds, if it stands there, and what follows.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(digits) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = digits.bytes().position(|b| !b.is_ascii_digit())?;
    let millis = (0..3).fold(0, |sum, at| {
        let digit = digits.as_bytes()[..end].get(at).map_or(0, |b| i64::from(b - b'0'));
        sum * 10 + digit
    });
    (1..=9).contains(&end).then_some((millis, &digits[end..]))
}

/// `Z` or `+01:00`, in seconds.
fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("Z") {
        return Some(0);
    }
    let (sign, rest) = match zone.as_bytes().first()? {
        b'+' => (1, &zone[1..]),
        b'-' => (-1, &zone[1..]),
        _ => return None,
    };
    let [hours, minutes] = numbers(rest, ':', [2, 2])?;
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Years start in March here, so that a leap day is the last day of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;
    use proptest::prelude::*;

    #[test]
    fn zones_and_fractions() {
        let expected = Some(1_795_253_400_000);
        for same in ["2026-11-21T09:30:00Z", "2026-11-21t09:30:00.000z", "2026-11-21T10:30:00+01:00"] {
            assert_eq!(rfc3339(same), expected, "{same}");
        }
        assert_eq!(rfc3339("2026-11-21T04:00:00.1234-05:30"), expected.map(|millis| millis + 123));
        assert_eq!(rfc3339("2024-02-29T00:00:00.5Z"), Some(1_709_164_800_500));
    }

    #[test]
    fn what_is_no_time() {
        for bad in [
            "",
            "2026-11-21",
            "2026-11-21T09:30:00",
            "2026-11-21 09:30:00Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-00T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T09:30:60Z",
            "2026-11-21T09:30:00.Z",
            "2026-11-21T09:30:00+1:00",
            "2026-11-21T09:30:00ZZ",
            "+026-11-21T09:30:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "2026-11-21T09:30:0\u{e9}Z",
        ] {
            assert_eq!(rfc3339(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_we_write_is_read(millis in 0..253_402_300_800_000_u64) {
            let time = Timestamp::from_millis(millis);
            prop_assert_eq!(Timestamp::parse_rfc3339(&time.to_string()), Some(time));
        }

        #[test]
        fn arbitrary_text_never_panics(text in any::<String>(), close in "[0-9:TZ.+é-]{0,30}") {
            let _ = (rfc3339(&text), rfc3339(&close));
        }
    }
}
