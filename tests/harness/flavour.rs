//! The flavour of the SQL that the tests run on.

use std::process::Command;
use std::sync::OnceLock;

use crate::root;

/// A flavour of livestore_sync (`sql/flavours`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    Native,
    Portable,
}

impl Flavour {
    /// The flavour that `$LIVESTORE_TEST_FLAVOUR` names, or native if it is not set.
    pub fn of_tests() -> Self {
        match std::env::var("LIVESTORE_TEST_FLAVOUR").as_deref() {
            Err(_) | Ok("" | "native") => Self::Native,
            Ok("portable") => Self::Portable,
            Ok(other) => panic!("LIVESTORE_TEST_FLAVOUR is native or portable, and not {other}"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Portable => "portable",
        }
    }

    /// The statement that removes it, with all data.
    pub fn uninstall(self) -> &'static str {
        match self {
            Self::Native => "drop extension livestore_sync cascade",
            Self::Portable => "drop schema livestore cascade",
        }
    }

    /// The statements that install it.
    pub fn install(self) -> &'static str {
        static SCRIPT: OnceLock<String> = OnceLock::new();
        match self {
            Self::Native => "create extension livestore_sync;",
            Self::Portable => SCRIPT.get_or_init(|| {
                // Another build of it.
                if let Some(file) = std::env::var_os("LIVESTORE_TEST_SQL") {
                    return std::fs::read_to_string(file).expect("the script");
                }
                let folder = tempfile::tempdir().expect("a folder");
                let status =
                    Command::new(root().join("sql/build")).arg(folder.path()).status().expect("sql/build runs");
                assert!(status.success(), "sql/build");
                std::fs::read_to_string(folder.path().join("livestore.sql")).expect("the script")
            }),
        }
    }
}

/// Whether a test has nothing to do, since it is about the extension, and the tests run on the portable flavour.
pub fn is_skipped(reason: &str) -> bool {
    let is_skipped = Flavour::of_tests() == Flavour::Portable;
    if is_skipped {
        eprintln!("skipped on the portable flavour: {reason}");
    }
    is_skipped
}
