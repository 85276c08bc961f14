//! `livestore-sidecar token`: a token to try authentication with.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::auth::{Access, SUBJECT_BYTES, check_access_claim, check_jwt_secret, mint};
use crate::settings::SettingsError;
use crate::settings::values::lasting;

/// The content of the token.
#[derive(Debug, Args)]
pub struct NewToken {
    /// The secret of the sidecar that will take it.
    #[arg(long, env = "LIVESTORE_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    jwt_secret: String,

    /// Sign with a --jwt-secret of less than 32 bytes, for a sidecar that has this option, too.
    #[arg(long, env = "LIVESTORE_INSECURE_SHORT_SECRET")]
    insecure_short_secret: bool,

    /// A store that the token opens, or a prefix of store names with * at the end. Can be given several times.
    #[arg(long, required = true)]
    store: Vec<String>,

    /// The permission there: read, write or admin.
    #[arg(long, default_value = "write")]
    access: Access,

    /// The time for which it is valid.
    #[arg(long, default_value = "1h", value_parser = lasting(Duration::from_secs(1)))]
    expires: Duration,

    /// Its subject (sub).
    #[arg(long, default_value = "developer")]
    subject: String,

    /// The claim that says what it allows: as the sidecar has it.
    #[arg(long, env = "LIVESTORE_ACCESS_CLAIM", default_value = "livestore", value_name = "CLAIM")]
    access_claim: String,
}

impl NewToken {
    /// Prints it.
    pub fn print(&self) -> ExitCode {
        if let Err(problem) = self.check() {
            eprintln!("livestore-sidecar: {problem}");
            return ExitCode::from(2);
        }
        let minted = mint(&self.jwt_secret, &self.subject, self.expires, &self.access_claim, &self.store, self.access);
        let printed = match minted {
            Ok(token) => writeln!(std::io::stdout(), "{token}").map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match printed {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("livestore-sidecar: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// A token that no sidecar takes, or that opens nothing, is not printed.
    fn check(&self) -> Result<(), SettingsError> {
        check_jwt_secret(&self.jwt_secret, self.insecure_short_secret)?;
        check_access_claim(&self.access_claim)?;
        if !(1..=SUBJECT_BYTES).contains(&self.subject.len()) {
            return Err(format!("--subject has 1 to {SUBJECT_BYTES} bytes").into());
        }
        if self.store.iter().any(String::is_empty) {
            return Err("--store is empty: name a store, or * for all".into());
        }
        Ok(())
    }
}
