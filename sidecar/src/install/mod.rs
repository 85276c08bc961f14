//! `livestore-sidecar install`, `upgrade` and `uninstall`: the schema `livestore` of a database, changed in one transaction.

mod changes;
mod dependents;
mod state;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use tokio_postgres::Client;
use tokio_postgres::error::Severity;

use self::changes::{ALONE, Change, Plan, Refusal};
#[cfg(feature = "sharding")]
pub use self::state::JOIN_ROLES;
pub use self::state::LEAVE_ROLES;
use self::state::{State, VERSION, Wanted};
use crate::postgres::{Connected, DatabaseError, address, connect_once, run_with_secret, told, warn_if_unencrypted};
use crate::settings::{SettingsError, check_secret};
use crate::telemetry::{chain, printable};

/// A lock that another transaction holds for longer stops the installation: clients wait behind it meanwhile.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '3s'";

/// Taken while there is nothing else to lock, so nobody but another installation waits for it.
const INSTALL_LOCK: &str = "set local lock_timeout = '30s';
     select pg_advisory_xact_lock(hashtextextended('livestore_sync install', 0))";

/// Functions and operators are Postgres' own: strangers may have created others in the schemas that a role searches.
const SEARCH_PATH: &str = "set local search_path = pg_catalog, pg_temp";

/// The two forms in which a database can have livestore_sync. Both do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Flavour {
    /// An extension with a library.
    Native,
    /// SQL alone, for a Postgres that loads no libraries.
    Portable,
}

#[derive(Debug, Args)]
pub struct Owner {
    /// The database, as the role that owns it or a superuser: postgres://owner:password@host:port/database.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,

    /// PEM file of the authority that signs the certificate of the database. Without it, the authorities that this system trusts.
    #[arg(long, env = "LIVESTORE_DATABASE_ROOT_CERTIFICATE", value_name = "FILE")]
    database_root_certificate: Option<PathBuf>,

    /// Print the SQL, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Install {
    #[command(flatten)]
    owner: Owner,

    /// Without it: what is installed already, or else native where the library is there and the role is a superuser. A database in
    /// use changes its flavour without losing anything.
    #[arg(long, value_enum)]
    flavour: Option<Flavour>,

    /// Role with which the sidecar is to connect. Created if it does not exist.
    #[arg(long, default_value = "livestore_sidecar", value_name = "ROLE")]
    sidecar_role: String,

    /// Password of that role, if it is created. Without it, one is made and printed. The password of a role that exists stays as it is.
    #[arg(long, env = "LIVESTORE_SIDECAR_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    sidecar_password: Option<String>,
}

#[derive(Debug, Args)]
pub struct Upgrade {
    #[command(flatten)]
    owner: Owner,
}

#[derive(Debug, Args)]
pub struct Uninstall {
    #[command(flatten)]
    owner: Owner,

    /// Uninstall with all stores and their events, and with what depends on livestore_sync, for example views of events.
    #[arg(long)]
    drop_data: bool,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{}", .0.to_operator())]
    Unreachable(#[from] DatabaseError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{}", told(.0))]
    Sql(#[from] tokio_postgres::Error),
    /// With what is to be told if they were made.
    #[error(
        "the connection was lost while the changes were committed, so it is not known whether they were made. Run the same command again to see: {}{told}",
        chain(.error)
    )]
    Unknown { error: tokio_postgres::Error, told: String },
    #[error(transparent)]
    System(#[from] std::io::Error),
}

impl InstallError {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::System(_) => 1,
            Self::Settings(_) => 2,
            Self::Unreachable(_) | Self::Unknown { .. } => 3,
            Self::Refused(_) | Self::Sql(_) => 4,
        }
    }
}

impl Install {
    /// For a database that needs no further choice: `url` names it as a superuser.
    pub fn with(url: String, flavour: Option<Flavour>, sidecar_role: String, password: String) -> Self {
        let owner = Owner { database_url: url, database_root_certificate: None, dry_run: false };
        Self { owner, flavour, sidecar_role, sidecar_password: Some(password) }
    }

    pub fn run(&self) -> ExitCode {
        self.owner.run(async |client| self.plan(client).await)
    }

    /// Installs, and prints what it changes.
    pub async fn carry_out(&self) -> Result<(), InstallError> {
        self.owner.change(async |client| self.plan(client).await).await.map(drop)
    }

    async fn plan(&self, client: &Client) -> Result<Plan, InstallError> {
        check_secret("--sidecar-password", self.sidecar_password.as_deref())?;
        let mut state = State::read(client, Wanted::Version).await?;
        if state.installed.is_none() {
            // Of two installations into an empty database, the second one finds what the first one has installed.
            client.batch_execute(INSTALL_LOCK).await?;
            client.batch_execute(LOCK_TIMEOUT).await?;
            state = State::read(client, Wanted::Version).await?;
        }
        let mut plan = match changes::newer(&state, self.flavour) {
            Some(version) => {
                let note = format!(
                    "The database has livestore_sync {version}, which is newer than this program ({VERSION}): nothing to upgrade."
                );
                Plan { notes: vec![note], ..Plan::default() }
            }
            None => changes::install(&state, self.flavour)?.into(),
        };
        changes::sidecar_role(client, &self.sidecar_role, self.sidecar_password.as_deref(), &mut plan).await?;
        // A secret that comes from a file may end with a line break, and the URL of the sidecar does not.
        let has_blank_end = self.sidecar_password.as_deref().is_some_and(|password| password.trim() != password);
        if has_blank_end && plan.changes.iter().any(|change| change.with_secret.is_some()) {
            let text = "--sidecar-password begins or ends with white space, such as a line break: remove it";
            return Err(SettingsError::from(text).into());
        }
        Ok(plan)
    }
}

impl Upgrade {
    pub fn run(&self) -> ExitCode {
        self.owner.run(async |client| Ok(changes::upgrade(&State::read(client, Wanted::Version).await?)?.into()))
    }
}

impl Uninstall {
    pub fn run(&self) -> ExitCode {
        self.owner.run(async |client| {
            let changes = changes::uninstall(&State::read(client, Wanted::Stores).await?, self.drop_data)?;
            if self.drop_data {
                return Ok(changes::with_dependents(changes, &dependents::read(client).await?).into());
            }
            // Nobody can push from here on, and a store that was created meanwhile counts.
            client.batch_execute(ALONE).await?;
            let changes = changes::uninstall(&State::read(client, Wanted::Stores).await?, self.drop_data)?;
            let dependents = dependents::read(client).await?;
            if dependents.is_empty() { Ok(changes.into()) } else { Err(Refusal::HasDependents { dependents }.into()) }
        })
    }
}

impl Owner {
    /// Carries out the changes that are planned from the state of the database.
    fn run(&self, plan: impl AsyncFnOnce(&Client) -> Result<Plan, InstallError>) -> ExitCode {
        let result = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(InstallError::from)
            .and_then(|runtime| runtime.block_on(self.change(plan)));
        match result {
            Ok(Plan { changes, notes }) => {
                let has_nothing = changes.is_empty() && notes.is_empty() && !self.dry_run;
                let nothing = has_nothing.then(|| "Nothing to do.".to_owned());
                let advice = changes.into_iter().filter_map(|change| change.afterwards);
                let lines = nothing.into_iter().chain(notes).chain(advice.map(|advice| format!("\n{advice}")));
                for line in lines {
                    // It is done, whether somebody reads this or not.
                    let _ = writeln!(std::io::stdout(), "{line}");
                }
                ExitCode::SUCCESS
            }
            Err(failure) => {
                let nothing =
                    if matches!(failure, InstallError::Unknown { .. }) { "" } else { "\nNothing was changed." };
                eprintln!("livestore-sidecar: {}{nothing}", printable(&failure.to_string()));
                ExitCode::from(failure.exit_code())
            }
        }
    }

    /// Returns what it has changed, and what there is to tell.
    async fn change(
        &self,
        plan: impl AsyncFnOnce(&Client) -> Result<Plan, InstallError>,
    ) -> Result<Plan, InstallError> {
        let root_certificate = self.database_root_certificate.as_deref();
        let address = address("--database-url", &self.database_url, root_certificate)?;
        warn_if_unencrypted("--database-url", &self.database_url, root_certificate);
        let Connected { client, connection, .. } = connect_once(address).await?;
        tokio::spawn(connection);
        client.batch_execute("set client_min_messages = warning; begin").await?;
        client.batch_execute(SEARCH_PATH).await?;
        client.batch_execute(LOCK_TIMEOUT).await?;
        let Plan { changes, notes } = plan(&client).await?;
        let mut out = std::io::stdout();
        if self.dry_run {
            writeln!(out, "begin;\n{SEARCH_PATH};\n{LOCK_TIMEOUT};")?;
            for Change { what, sql, .. } in &changes {
                writeln!(out, "\n-- {what}\n{sql}")?;
            }
            for note in &notes {
                writeln!(out, "\n-- {note}")?;
            }
            writeln!(out, "commit;")?;
            return Ok(Plan::default());
        }
        if changes.is_empty() {
            return Ok(Plan { changes, notes });
        }
        for Change { what, sql, with_secret, .. } in &changes {
            writeln!(out, "{what}")?;
            match with_secret {
                Some((statement, secret)) => run_with_secret(&client, statement, secret).await?,
                None => client.batch_execute(sql).await?,
            }
        }
        client.batch_execute(LEAVE_ROLES).await?;
        match client.batch_execute("commit").await {
            // A server that ends a session does not say how its commit has ended, either.
            Err(error) if error.as_db_error().is_none_or(|error| error.parsed_severity() != Some(Severity::Error)) => {
                let told = changes.iter().filter_map(|change| change.afterwards.as_ref());
                Err(InstallError::Unknown { error, told: told.map(|told| format!("\n{told}")).collect() })
            }
            committed => Ok(committed.map(|()| Plan { changes, notes })?),
        }
    }
}
