use std::fmt;
use std::sync::Arc;

use super::error::Malformed;
use super::text::PgText;

/// The name of a store, as the extension accepts it: 1 to 1,024 characters, without U+0000.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreId(Arc<str>);

/// The longest store id in characters; a check constraint of `livestore.stores` says the same.
const MAX_CHARACTERS: usize = 1024;

impl StoreId {
    /// The error is for the client that sent it.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.is_empty() {
            return Err(Malformed::new("storeId is empty"));
        }
        if text.chars().nth(MAX_CHARACTERS).is_some() {
            return Err(Malformed::new(format!("storeId is longer than {MAX_CHARACTERS} characters")));
        }
        PgText::check("storeId", text)?;
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Quoted: a store id can hold line breaks, and a log line must not.
impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_store_id() {
        fuzzing::text_target!("store_id", |text| {
            let is_id = (1..=MAX_CHARACTERS).contains(&text.chars().count()) && !text.contains('\0');
            let parsed = StoreId::parse(text);
            assert_eq!(parsed.is_ok(), is_id);
            if let Ok(id) = parsed {
                assert!(id.as_str() == text && !format!("{id:?}").contains(['\n', '\r', '\x1b']));
            }
        });
    }
}
