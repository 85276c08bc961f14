//! Positions in a log, in Electric's words.

use std::fmt;
use std::str::FromStr;

/// The largest sequence number of an event.
const MAX: i64 = (1 << 53) - 1;

/// `<transaction>_<operation>`: each event is a transaction of its own, with the operation 0.
///
/// After a page with events, LiveStore's client expects more pages, and holds its own events back until it gets an empty one.
/// So a client that has read events is sent an empty page at once, and has the operation 1 from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset {
    /// The last event that the client has seen, 0 before the first.
    pub seq_num: i64,
    /// Whether the client was told that it has seen all.
    pub was_told: bool,
}

impl Offset {
    pub fn after(seq_num: i64) -> Self {
        Self { seq_num, was_told: false }
    }

    pub fn told(self) -> Self {
        Self { was_told: true, ..self }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.seq_num, u8::from(self.was_told))
    }
}

impl FromStr for Offset {
    type Err = &'static str;

    /// Electric's own offsets are of this form, too; `<transaction>_inf` is behind all operations of a transaction.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (transaction, operation) = text.split_once('_').ok_or(INVALID)?;
        if !digits(transaction) || !(operation == "inf" || digits(operation)) {
            return Err(INVALID);
        }
        let seq_num = transaction.parse().ok().filter(|seq_num| *seq_num <= MAX).ok_or(INVALID)?;
        Ok(Self { seq_num, was_told: operation.bytes().any(|byte| byte != b'0') })
    }
}

const INVALID: &str = "has invalid format";

/// The position that a client brings back from the page that it read last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub offset: Offset,
    pub handle: Box<str>,
}

impl Position {
    /// The backend id that the log must have: any, before the first event.
    pub fn backend_id(&self) -> Option<&str> {
        (self.offset.seq_num > 0).then_some(&*self.handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_as_electric_writes_them_and_come_back() {
        for (text, seq_num, was_told, back) in [
            ("0_0", 0, false, "0_0"),
            ("7_0", 7, false, "7_0"),
            ("7_1", 7, true, "7_1"),
            ("0_inf", 0, true, "0_1"),
            ("26799576_12", 26_799_576, true, "26799576_1"),
            ("9007199254740991_0", MAX, false, "9007199254740991_0"),
        ] {
            let offset: Offset = text.parse().unwrap();
            assert_eq!(offset, Offset { seq_num, was_told }, "{text}");
            assert_eq!(offset.to_string(), back);
        }
        for wrong in
            ["", "7", "7_", "_0", "-1", "-1_0", "now", "7_x", "7_0_0", "+7_0", "9007199254740992_0", "7_-1", " 7_0"]
        {
            assert!(wrong.parse::<Offset>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn fuzz_offset() {
        fuzzing::text_target!("offset", |text| {
            if let Ok(offset) = text.parse::<Offset>() {
                assert!((0..=MAX).contains(&offset.seq_num));
                assert_eq!(offset.to_string().parse(), Ok(offset));
            }
        });
    }
}
