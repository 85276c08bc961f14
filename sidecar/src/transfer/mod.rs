//! `livestore-sidecar export` and `import`: the log of a store as a file of lines (`livestore.export_store`).

mod export;
mod import;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_postgres::Client;

pub use self::export::Export;
pub use self::import::Import;
use crate::postgres::{Connected, DatabaseError, address, connect_once, told};
use crate::settings::SettingsError;

#[derive(Debug, Args)]
struct Access {
    /// The database: postgres://user:password@host:port/database. To export, the role takes livestore_reader; to import, livestore_admin.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,

    /// PEM file of the authority that signs the certificate of the database. Without it, the authorities that this system trusts.
    #[arg(long, env = "LIVESTORE_DATABASE_ROOT_CERTIFICATE", value_name = "FILE")]
    database_root_certificate: Option<PathBuf>,
}

/// Why a log was not exported or imported.
#[derive(Debug, thiserror::Error)]
enum TransferError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Unreachable(#[from] DatabaseError),
    #[error("{}", told(.0))]
    Sql(#[from] tokio_postgres::Error),
    #[error("{name}: {error}")]
    File { name: String, error: std::io::Error },
    #[error(transparent)]
    System(#[from] std::io::Error),
}

impl TransferError {
    fn file(name: &str) -> impl FnOnce(std::io::Error) -> Self {
        let name = name.to_owned();
        move |error| Self::File { name, error }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } | Self::System(_) => 1,
            Self::Settings(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Sql(_) => 4,
        }
    }
}

impl Access {
    async fn connect(&self) -> Result<Client, TransferError> {
        let address = address("--database-url", &self.database_url, self.database_root_certificate.as_deref())?;
        let Connected { client, connection, .. } = connect_once(address).await?;
        tokio::spawn(connection);
        // Of a large log, statements take long.
        client.batch_execute("set statement_timeout = 0; set client_min_messages = warning").await?;
        Ok(client)
    }
}

/// Runs a command to its end, and says in a line what it has done.
fn run(command: impl Future<Output = Result<String, TransferError>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(TransferError::from).and_then(|runtime| runtime.block_on(command)) {
        Ok(done) => {
            // The standard output may be the file.
            eprintln!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("livestore-sidecar: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// A bar on the terminal, if there is one.
fn progress(length: u64, template: &str) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length), target).with_style(style)
}
