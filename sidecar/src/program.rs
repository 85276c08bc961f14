//! The command line: what the program does, and with which settings.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::cli::{Commit, Completions, Events, Export, Import, ManualPages, Stores, Subscriptions, Tail};
use crate::config::Config;
#[cfg(feature = "dev")]
use crate::dev::Dev;
use crate::health::Health;
use crate::install::{Install, Uninstall, Upgrade};
use crate::settings::environment::unknown;
#[cfg(feature = "sharding")]
use crate::sharding::Shards;
use crate::token::NewToken;
use crate::{check, process};

/// Serves LiveStore clients from your Postgres.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Program {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    config: Config,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "dev")]
    /// Serves on a developer's machine, with a Postgres cluster of its own in --data
    Dev(Box<Dev>),
    /// Checks your settings and your database, and tells you how to fix what is wrong
    Check(Box<Config>),

    /// Installs livestore_sync in a database, or brings it to this version, and creates the sidecar's role
    Install(Install),
    /// Brings livestore_sync in a database to this version
    Upgrade(Upgrade),
    /// Removes livestore_sync from a database
    Uninstall(Uninstall),
    #[cfg(feature = "sharding")]
    /// Spreads stores over several databases
    Shards(Shards),
    /// Lists stores
    Stores(Stores),
    /// Lists the events of a store, and goes on with --follow
    Events(Events),
    /// Shows the events of all stores as they are committed
    Tail(Tail),
    /// Commits an event
    Commit(Commit),
    /// Lists durable subscriptions, and how far they are
    Subscriptions(Subscriptions),
    /// Writes the events of a store to a file, to keep them or to import them elsewhere
    Export(Export),
    /// Reads a file that export has written into a store, and keeps its backend id and times
    Import(Import),
    /// Makes a token, to try --auth jwt with, and prints it
    Token(NewToken),
    /// Checks that the sidecar on this machine is alive: the health check of a container
    Health(Health),
    /// Prints completions for a shell
    Completions(Completions),
    /// Prints a page for man
    Man(ManualPages),
}

impl Program {
    pub fn run(self) -> ExitCode {
        let unknown_variables = || unknown(&Self::command());
        match self.command {
            None => process::run(Config { unknown_variables: unknown_variables(), ..self.config }),
            #[cfg(feature = "dev")]
            Some(Command::Dev(dev)) => dev.run(unknown_variables()),
            Some(Command::Check(config)) => check::run(&Config { unknown_variables: unknown_variables(), ..*config }),
            Some(Command::Install(install)) => install.run(),
            Some(Command::Upgrade(upgrade)) => upgrade.run(),
            Some(Command::Uninstall(uninstall)) => uninstall.run(),
            #[cfg(feature = "sharding")]
            Some(Command::Shards(shards)) => shards.run(),
            Some(Command::Stores(stores)) => stores.run(),
            Some(Command::Events(events)) => events.run(),
            Some(Command::Tail(tail)) => tail.run(),
            Some(Command::Commit(commit)) => commit.run(),
            Some(Command::Subscriptions(subscriptions)) => subscriptions.run(),
            Some(Command::Export(export)) => export.run(),
            Some(Command::Import(import)) => import.run(),
            Some(Command::Token(token)) => token.print(),
            Some(Command::Health(health)) => health.ask(),
            Some(Command::Completions(completions)) => completions.print(Self::command()),
            Some(Command::Man(pages)) => pages.print(Self::command()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options of which 0 is a good value: clocks that agree, no second try, no delay, no cache.
    const MAY_BE_NOTHING: [&str; 5] =
        ["--jwt-leeway", "--database-wait", "--shutdown-delay", "--contention-window", "--page-cache-bytes"];

    fn parse(option: &str, value: &str) -> Result<Program, clap::Error> {
        let given = format!("{option}={value}");
        Program::try_parse_from(["livestore-sidecar", "--database-url", "postgres://a@b/c", &given])
    }

    /// An option that is added is looked at by this test, too: its default tells that it is a number or a duration.
    #[test]
    fn nothing_that_is_counted_or_measured_can_be_none() {
        let mut looked_at = 0;
        for argument in Program::command().get_arguments() {
            let Some(name) = argument.get_long().map(|name| format!("--{name}")) else { continue };
            let default = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<String>();
            let (is_number, is_duration) =
                (default.parse::<u64>().is_ok(), humantime::parse_duration(&default).is_ok());
            if !is_number && !is_duration {
                continue;
            }
            looked_at += 1;
            assert!(parse(&name, &default).is_ok(), "{name}: its default");
            let nothing = if is_number { "0" } else { "0s" };
            let refusal = parse(&name, nothing).err();
            assert_eq!(refusal.is_none(), MAY_BE_NOTHING.contains(&&*name), "{name} {nothing}: {refusal:?}");
            let beyond = if is_number { "99999999999999999999999" } else { "5000years" };
            for value in ["", "-1", "some", beyond] {
                let refusal = parse(&name, value).expect_err(&format!("{name} {value:?}"));
                assert_eq!(refusal.exit_code(), 2, "{name} {value:?}");
                assert!(refusal.to_string().contains(&name), "{refusal}");
            }
        }
        assert!(looked_at >= 21, "{looked_at} options are numbers or durations");
    }
}
