//! The events of a page as `livestore.read_page` returns them: one value, each event a row in the [binary format of COPY].
//!
//! [binary format of COPY]: https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4

use std::str::Utf8Error;

use chrono::{DateTime, Utc};

use crate::log::event::{Event, StoredEvent};

/// The number of fields: seqNum, parentSeqNum, name, args, clientId, sessionId, createdAt.
const FIELDS: i16 = 7;

/// Why an event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("its row ends too early")]
    Short,
    #[error("its row has {0} fields")]
    Fields(i16),
    #[error("its {0} is null")]
    Null(&'static str),
    #[error("its {0} is no number of 64 bits")]
    Number(&'static str),
    #[error("its {0} is not UTF-8")]
    Text(&'static str, #[source] Utf8Error),
}

/// An event that can be read.
#[derive(Debug)]
pub struct Stored {
    pub event: Event,
    /// Its time is outside of the years that can be told.
    pub is_out_of_time: bool,
}

/// The events of a page that are not read yet.
pub struct StoredEvents<'a>(&'a [u8]);

impl<'a> StoredEvents<'a> {
    pub fn new(events: &'a [u8]) -> Self {
        Self(events)
    }

    /// The sequence number of the next event, if it has one.
    pub fn seq_num(&self) -> Option<i64> {
        let mut rest = Self(self.0);
        rest.array::<2>().ok()?;
        rest.number("seqNum").ok()
    }

    /// The next event; `None` after the last. After one that cannot be read, none can be read.
    pub fn next(&mut self) -> Result<Option<Stored>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        match i16::from_be_bytes(self.array()?) {
            FIELDS => {}
            other => return Err(Malformed::Fields(other)),
        }
        // In the order of the fields.
        let event = StoredEvent {
            seq_num: self.number("seqNum")?,
            parent_seq_num: self.number("parentSeqNum")?,
            name: self.text("name")?,
            args: self.optional_text("args")?,
            client_id: self.text("clientId")?,
            session_id: self.text("sessionId")?,
        };
        let Moment { at, is_out_of_time } = Moment::of(self.number("createdAt")?);
        Ok(Some(Stored { event: event.appended_at(at), is_out_of_time }))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*array)
    }

    /// A field without its length; `None` if it is null.
    fn field(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        // Null has the length -1.
        let Ok(length) = usize::try_from(i32::from_be_bytes(self.array()?)) else {
            return Ok(None);
        };
        let (field, rest) = self.0.split_at_checked(length).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(Some(field))
    }

    fn number(&mut self, name: &'static str) -> Result<i64, Malformed> {
        let field = self.field()?.ok_or(Malformed::Null(name))?;
        field.try_into().map(i64::from_be_bytes).map_err(|_| Malformed::Number(name))
    }

    fn optional_text(&mut self, name: &'static str) -> Result<Option<&'a str>, Malformed> {
        let text = self.field()?.map(std::str::from_utf8).transpose();
        text.map_err(|error| Malformed::Text(name, error))
    }

    fn text(&mut self, name: &'static str) -> Result<&'a str, Malformed> {
        self.optional_text(name)?.ok_or(Malformed::Null(name))
    }
}

/// When an event was appended, within the years that every dialect can write: what is stored may be `infinity`.
struct Moment {
    at: DateTime<Utc>,
    is_out_of_time: bool,
}

impl Moment {
    /// The first and the last, in microseconds since 1970.
    const FIRST: i64 = -62_167_219_200_000_000;
    const LAST: i64 = 253_402_300_799_999_999;

    /// `microseconds` since 2000, as Postgres counts.
    fn of(microseconds: i64) -> Self {
        const EPOCH: i64 = 946_684_800_000_000;
        let since_1970 = microseconds.saturating_add(EPOCH);
        let told = since_1970.clamp(Self::FIRST, Self::LAST);
        Self { at: DateTime::from_timestamp_micros(told).unwrap_or_default(), is_out_of_time: told != since_1970 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::event::AbsentArgs;

    #[test]
    fn any_time_of_postgres_can_be_told() {
        for (microseconds, told) in [
            (0, "2000-01-01T00:00:00+00:00"),
            (i64::MAX, "9999-12-31T23:59:59.999999+00:00"),
            (i64::MIN, "0000-01-01T00:00:00+00:00"),
            // 294276-12-31 and 4713 BC.
            (9_223_371_331_199_999_999, "9999-12-31T23:59:59.999999+00:00"),
            (-211_813_488_000_000_000, "0000-01-01T00:00:00+00:00"),
        ] {
            let Moment { at, is_out_of_time } = Moment::of(microseconds);
            assert_eq!((at.to_rfc3339(), is_out_of_time), (told.into(), microseconds != 0));
        }
    }

    fn row(fields: [Option<&[u8]>; 7]) -> Vec<u8> {
        let mut row = FIELDS.to_be_bytes().to_vec();
        for field in fields {
            row.extend(field.map_or(-1, |field| i32::try_from(field.len()).unwrap()).to_be_bytes());
            row.extend(field.unwrap_or_default());
        }
        row
    }

    #[test]
    fn an_event_is_read_or_told_by_what_is_wrong_with_it() {
        let number = |number: i64| number.to_be_bytes();
        let (two, one, time) = (number(2), number(1), number(0));
        let good = [Some(&two[..]), Some(&one), Some(b"e"), Some(b"{}"), Some(b"c"), Some(b"s"), Some(&time)];
        let read = |bytes: &[u8]| {
            StoredEvents::new(bytes).next().map(|stored| stored.unwrap().event.json(AbsentArgs::Omit).to_owned())
        };
        let json = r#"{"name":"e","args":{},"seqNum":2,"parentSeqNum":1,"clientId":"c","sessionId":"s"}"#;
        assert_eq!(read(&row(good)).unwrap(), json);

        let change = |place: usize, field: Option<&'static [u8]>| {
            let mut fields = good;
            fields[place] = field;
            row(fields)
        };
        assert_eq!(read(&change(3, None)).unwrap(), json.replace(r#""args":{},"#, ""));
        for (bytes, problem) in [
            (change(2, None), "its name is null"),
            (change(0, None), "its seqNum is null"),
            (change(1, Some(b"1")), "its parentSeqNum is no number of 64 bits"),
            (change(5, Some(b"\xff")), "its sessionId is not UTF-8"),
            (vec![0, 8], "its row has 8 fields"),
        ] {
            assert_eq!(read(&bytes).unwrap_err().to_string(), problem);
        }
        let whole = row(good);
        for length in 1..whole.len() {
            assert_eq!(read(&whole[..length]).unwrap_err().to_string(), "its row ends too early", "{length}");
        }
    }
}
