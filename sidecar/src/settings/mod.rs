//! The common parts of settings: the types of their values, and why one cannot be used. Each folder has the settings of its own
//! concern, in its `settings.rs`; `program.rs` puts them together.

pub mod environment;
pub mod values;

use std::borrow::Cow;
use std::error::Error;

/// A setting that cannot be used, or settings that contradict each other: what to change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(Cow<'static, str>);

impl SettingsError {
    /// Names the option whose value is the problem. What caused the problem becomes part of the text.
    pub fn of<E: Into<Box<dyn Error + Send + Sync>>>(option: &'static str) -> impl FnOnce(E) -> Self {
        move |problem| {
            let problem = problem.into();
            let (mut text, mut cause) = (option.to_string(), Some(&*problem as &dyn Error));
            while let Some(error) = cause {
                // Some errors have the text of their cause in their own.
                let more = error.to_string();
                if !text.ends_with(&more) {
                    text = format!("{text}: {more}");
                }
                cause = error.source();
            }
            Self(text.into())
        }
    }
}

impl<T: Into<Cow<'static, str>>> From<T> for SettingsError {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

/// A secret, if it is given, is not empty.
pub fn check_secret(option: &str, secret: Option<&str>) -> Result<(), SettingsError> {
    match secret {
        Some("") => Err(format!("{option} is empty: give it one that nobody guesses, or leave it out").into()),
        _ => Ok(()),
    }
}

/// The same for another text.
pub fn check_text(option: &str, text: Option<&str>) -> Result<(), SettingsError> {
    if text.is_some_and(|text| text.trim().is_empty()) {
        return Err(format!("{option} is empty: say what it is, or leave it out").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("it cannot be read{0}")]
    struct Outer(&'static str, #[source] std::fmt::Error);

    #[test]
    fn a_cause_that_is_in_the_text_is_told_once() {
        let cause = std::fmt::Error.to_string();
        for own in ["", ": an error occurred when formatting an argument"] {
            let told = SettingsError::of("--log")(Outer(own, std::fmt::Error)).to_string();
            assert_eq!(told, format!("--log: it cannot be read: {cause}"));
        }
    }
}
