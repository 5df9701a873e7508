//! Points in time as the API writes and reads them: RFC 3339, with no more fraction than there is.

use chrono::{DateTime, Datelike as _, TimeZone as _, Timelike as _};

const NANOS: i64 = 1_000_000_000;

/// A time as text, at most 35 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    text: [u8; 36],
    length: u8,
}

/// The epoch, which stands where there is no time to tell.
pub(super) const EPOCH: &[u8] = b"1970-01-01T00:00:00Z";

impl Stamp {
    /// `2026-11-22T10:00:00Z`, with 0, 3, 6 or 9 digits of fraction.
    pub(super) fn of(time: i64) -> Self {
        let (seconds, nanos) = (time.div_euclid(NANOS), time.rem_euclid(NANOS));
        let mut stamp = Self { text: [0; 36], length: 0 };
        stamp.date(seconds.div_euclid(86_400));
        stamp.push(b'T');
        let second = seconds.rem_euclid(86_400);
        stamp.digits(second / 3600, 2);
        stamp.push(b':');
        stamp.digits(second / 60 % 60, 2);
        stamp.push(b':');
        stamp.digits(second % 60, 2);
        if nanos != 0 {
            stamp.push(b'.');
            match nanos {
                _ if nanos % 1_000_000 == 0 => stamp.digits(nanos / 1_000_000, 3),
                _ if nanos % 1000 == 0 => stamp.digits(nanos / 1000, 6),
                _ => stamp.digits(nanos, 9),
            }
        }
        stamp.push(b'Z');
        stamp
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.length)]
    }

    /// **Source:** Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    fn date(&mut self, days: i64) {
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        self.digits(year_of_era + era * 400 + i64::from(month <= 2), 4);
        self.push(b'-');
        self.digits(month, 2);
        self.push(b'-');
        self.digits(day, 2);
    }

    const fn push(&mut self, byte: u8) {
        self.text[self.length as usize] = byte;
        self.length += 1;
    }

    const fn digits(&mut self, mut number: i64, width: usize) {
        let end = self.length as usize + width;
        let mut at = end;
        while at > self.length as usize {
            at -= 1;
            self.text[at] = b'0' + (number % 10) as u8;
            number /= 10;
        }
        self.length = end as u8;
    }
}

/// Seconds since the epoch in a zone, `2026-01-01T22:04:05-05:00`; UTC where the zone is unknown. `None`: Feast's null, or
/// beyond the years that a date has.
pub(super) fn zoned(seconds: i64, zone: &str) -> Option<String> {
    let utc = DateTime::from_timestamp(seconds, 0)?;
    if let Ok(offset) = zone.trim_start_matches("UTC").parse::<chrono::FixedOffset>() {
        return Some(utc.with_timezone(&offset).to_rfc3339());
    }
    let zone: chrono_tz::Tz = zone.parse().unwrap_or(chrono_tz::UTC);
    Some(zone.from_utc_datetime(&utc.naive_utc()).to_rfc3339())
}

/// Nanoseconds since the epoch of an ISO 8601 text, in UTC where it names no offset.
pub(super) fn parse(text: &str) -> Option<i64> {
    let text = text.trim();
    let time = arrow_cast::parse::string_to_datetime(&chrono::Utc, text).ok()?;
    // Years beyond those of a timestamp in nanoseconds are nobody's event.
    (1678..2262).contains(&time.year()).then(|| time.timestamp() * NANOS + i64::from(time.nanosecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_feast_writes_them_and_read_back() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-NANOS, "1969-12-31T23:59:59Z"),
            (1_795_341_600 * NANOS, "2026-11-22T10:00:00Z"),
            (1_795_348_800 * NANOS + 123_000_000, "2026-11-22T12:00:00.123Z"),
            (1_795_348_800 * NANOS + 123_456_000, "2026-11-22T12:00:00.123456Z"),
            (1_795_348_800 * NANOS + 1, "2026-11-22T12:00:00.000000001Z"),
            (951_782_400 * NANOS, "2000-02-29T00:00:00Z"),
            (-2_208_988_800 * NANOS, "1900-01-01T00:00:00Z"),
        ] {
            assert_eq!(Stamp::of(nanos).bytes(), text.as_bytes());
            assert_eq!(parse(text), Some(nanos), "{text}");
        }
        for extreme in [i64::MIN, i64::MAX] {
            assert!(Stamp::of(extreme).bytes().ends_with(b"Z"));
        }
    }

    #[test]
    fn a_time_without_an_offset_is_utc() {
        let ten = 1_795_341_600 * NANOS;
        for text in [
            "2026-11-22T10:00:00",
            "2026-11-22 10:00:00",
            "2026-11-22T12:00:00+02:00",
            "2026-11-22T10:00:00.000000",
            " 2026-11-22T10:00:00Z ",
        ] {
            assert_eq!(parse(text), Some(ten), "{text}");
        }
        assert_eq!(parse("2026-11-22"), Some(ten - 36_000 * NANOS));
        for text in ["", "yesterday-ish", "2026-13-01T00:00:00Z", "99999-01-01T00:00:00Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_zone_is_kept() {
        assert_eq!(zoned(1_767_323_045, "America/New_York").unwrap(), "2026-01-01T22:04:05-05:00");
        assert_eq!(zoned(0, "UTC+05:30").unwrap(), "1970-01-01T05:30:00+05:30");
        assert_eq!(zoned(i64::MIN, "UTC"), None);
        assert_eq!(zoned(0, "").unwrap(), "1970-01-01T00:00:00+00:00");
    }
}
