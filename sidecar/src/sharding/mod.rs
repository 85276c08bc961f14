//! `livestore-sidecar shards`: several databases with livestore_sync behind a front database, whose functions go to the database that has
//! the store (`sql/front`).

mod add;
mod connection;
mod front;
mod init;
mod moving;
mod session;
mod set_address;
mod shard;
mod status;
mod upgrade;

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::add::Add;
use self::init::Init;
use self::moving::Move;
use self::set_address::SetAddress;
use self::status::Status;
use self::upgrade::Upgrade;
use crate::postgres::{DatabaseError, told};
use crate::settings::SettingsError;
use crate::telemetry::printable;

/// Stores spread over several databases.
#[derive(Debug, Args)]
pub struct Shards {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes shards of databases that have livestore_sync, and a front of one that does not
    Init(Init),
    /// Adds a shard, which has no slots yet
    Add(Add),
    /// Moves slots with their stores, or a store, to another shard, while clients push
    Move(Move),
    /// Gives a shard of the front another address
    SetAddress(SetAddress),
    /// Replaces the functions of the front by those of this version
    Upgrade(Upgrade),
    /// Lists the shards, with their slots and stores, and whether they can be reached
    Status(Status),
}

/// Why a command stopped.
#[derive(Debug, thiserror::Error)]
enum ShardsError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{database}: {}", reasons(.error))]
    Unreachable { database: String, error: DatabaseError },
    /// Everything that is in the way.
    #[error("{}", .0.join("\nlivestore-sidecar: "))]
    Refused(Vec<String>),
    #[error("{database}: {}", told(.error))]
    Sql { database: String, error: tokio_postgres::Error },
    #[error(transparent)]
    System(#[from] std::io::Error),
}

impl ShardsError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::System(_) => 1,
            Self::Settings(_) => 2,
            Self::Unreachable { .. } => 3,
            Self::Refused(_) | Self::Sql { .. } => 4,
        }
    }
}

/// An error with the innermost reason, which is what says something.
fn reasons(error: &DatabaseError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        source = inner.source();
        if source.is_none() {
            text = format!("{text}: {inner}");
        }
    }
    text
}

impl Shards {
    pub fn run(&self) -> ExitCode {
        let done =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ShardsError::from).and_then(
                |runtime| match &self.command {
                    Command::Init(init) => runtime.block_on(init.carry_out()).map(|()| true),
                    Command::Add(add) => runtime.block_on(add.carry_out()).map(|()| true),
                    Command::Move(moving) => runtime.block_on(moving.carry_out()).map(|()| true),
                    Command::SetAddress(address) => runtime.block_on(address.carry_out()).map(|()| true),
                    Command::Upgrade(upgrade) => runtime.block_on(upgrade.carry_out()).map(|()| true),
                    Command::Status(status) => runtime.block_on(status.show()),
                },
            );
        match done {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(failure) => {
                eprintln!("livestore-sidecar: {}", printable(&failure.to_string()));
                ExitCode::from(failure.exit_code())
            }
        }
    }
}

/// Prints a line of what is done.
fn say(line: &str) -> Result<(), ShardsError> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
