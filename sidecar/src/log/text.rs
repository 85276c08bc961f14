//! Text of a client that Postgres is asked about.

use std::borrow::Cow;

use super::error::Malformed;

/// Text that Postgres can hold: its text types have no character U+0000. Text with it is refused where it comes in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PgText(Box<str>);

impl PgText {
    /// `what`: the client's name for it, in the error that the client is told.
    pub fn parse<'a>(what: &str, text: impl Into<Cow<'a, str>>) -> Result<Self, Malformed> {
        let text = text.into();
        Self::check(what, &text)?;
        Ok(Self(text.into()))
    }

    /// The same for text that is not kept.
    pub fn check(what: &str, text: &str) -> Result<(), Malformed> {
        if text.contains('\0') { Err(Malformed::new(format!("{what} contains the character U+0000"))) } else { Ok(()) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}
