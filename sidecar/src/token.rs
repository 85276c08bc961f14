//! `livestore-sidecar token`: a token to try authentication with.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::auth::{Access, check_jwt_secret, mint};
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
        let Self { jwt_secret, insecure_short_secret, store, access, expires, subject, access_claim } = self;
        // A sidecar with this secret does not start.
        if let Err(problem) = check_jwt_secret(jwt_secret, *insecure_short_secret) {
            eprintln!("livestore-sidecar: {problem}");
            return ExitCode::from(2);
        }
        let minted = mint(jwt_secret, subject, *expires, access_claim, store, *access);
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
}
