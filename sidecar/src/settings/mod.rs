//! What all settings share: the values that they take, and why one cannot be used. Each folder has the settings of its own
//! concern, in its `settings.rs`; `program.rs` puts them together.

pub mod values;

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

/// A setting that cannot be used.
#[derive(Debug)]
pub enum SettingsError {
    /// Settings that contradict each other, and what to change.
    Together(Cow<'static, str>),
    /// The value of one option.
    Value { option: &'static str, problem: Box<dyn Error + Send + Sync> },
}

impl SettingsError {
    /// Names the option whose value is the problem.
    pub fn of<E: Into<Box<dyn Error + Send + Sync>>>(option: &'static str) -> impl FnOnce(E) -> Self {
        move |problem| Self::Value { option, problem: problem.into() }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Together(text) => f.write_str(text),
            Self::Value { option, problem } => {
                write!(f, "{option}: {problem}")?;
                let mut cause = problem.source();
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
        }
    }
}

/// Without a source: what caused it is part of the text.
impl Error for SettingsError {}

impl From<&'static str> for SettingsError {
    fn from(text: &'static str) -> Self {
        Self::Together(text.into())
    }
}

impl From<String> for SettingsError {
    fn from(text: String) -> Self {
        Self::Together(text.into())
    }
}

/// Checks that a secret, if it is given, is not empty.
pub fn check_secret(option: &str, secret: Option<&str>) -> Result<(), SettingsError> {
    match secret {
        Some("") => Err(format!("{option} is empty: give it one that nobody guesses, or leave it out").into()),
        _ => Ok(()),
    }
}

/// The same for another text.
pub fn check_text(option: &str, text: Option<&str>) -> Result<(), SettingsError> {
    match text {
        Some(text) if text.trim().is_empty() => {
            Err(format!("{option} is empty: say what it is, or leave it out").into())
        }
        _ => Ok(()),
    }
}
