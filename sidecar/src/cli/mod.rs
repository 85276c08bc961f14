//! `livestore-sidecar stores`, `events`, `tail`, `commit` and `subscriptions`: what the inspector shows, in a terminal; `export` and
//! `import`: the log of a store as a file of lines (`livestore.export_store`). They ask the database, or a sidecar that serves its inspector.

mod export;
mod import;
mod output;
mod shell;
mod source;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::value::RawValue;
use tokio::time::sleep;

pub use self::export::Export;
pub use self::import::Import;
pub use self::shell::{Completions, ManualPages};

use self::output::Output;
use self::source::{Row, Source, SourceError};
use crate::log::{List, ListKind};
use crate::telemetry::printable;

/// The interval at which what follows is asked for.
const INTERVAL: Duration = Duration::from_millis(300);

/// The source, and the form of the answer.
#[derive(Debug, Args)]
struct Asked {
    #[command(flatten)]
    source: source::Address,

    /// Print JSON, an object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct Stores {
    /// The beginning of the ids of the stores. Without it, the newest stores are listed.
    #[arg(default_value = "")]
    prefix: String,

    /// The largest number of stores to list.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,

    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
pub struct Events {
    /// The store.
    store: String,

    /// Only events after this number. Without it, the last ones are listed.
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
    after: Option<i64>,

    /// The largest number of events to list; with --follow, how many earlier events to show first.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,

    /// Go on, with every event that is added.
    #[arg(long, short)]
    follow: bool,

    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
pub struct Tail {
    /// Begin after this position of livestore.commits. Without it, at the end.
    #[arg(long, value_parser = clap::value_parser!(i64).range(0..))]
    after: Option<i64>,

    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
pub struct Commit {
    /// The store.
    store: String,

    /// The name of the event.
    name: String,

    /// Its args, as JSON. Without it, the event has none.
    args: Option<String>,

    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
pub struct Subscriptions {
    #[command(flatten)]
    asked: Asked,
}

const STORE_COLUMNS: [&str; 3] = ["store_id", "head", "created_at"];
const EVENT_COLUMNS: [&str; 5] = ["seq_num", "created_at", "name", "client_id", "args"];
const COMMIT_COLUMNS: [&str; 6] = ["position", "created_at", "store_id", "seq_num", "name", "args"];
const SUBSCRIPTION_COLUMNS: [&str; 7] =
    ["name", "position", "lag_events", "failures", "dead_letters", "polled_at", "error"];

impl Stores {
    pub fn run(&self) -> ExitCode {
        let list = List { of: ListKind::Stores, id: self.prefix.clone(), after: 0, limit: self.limit };
        run(async { show(&self.asked, list, &STORE_COLUMNS).await.map(drop) })
    }
}

impl Subscriptions {
    pub fn run(&self) -> ExitCode {
        let list = List { of: ListKind::Subscriptions, id: String::new(), after: 0, limit: 1000 };
        run(async { show(&self.asked, list, &SUBSCRIPTION_COLUMNS).await.map(drop) })
    }
}

impl Events {
    pub fn run(&self) -> ExitCode {
        let after = self.after.unwrap_or(-self.limit);
        let limit = if self.follow { 1000 } else { self.limit };
        let list = List { of: ListKind::Events, id: self.store.clone(), after, limit };
        match self.follow {
            false => run(async {
                let rows = show(&self.asked, list, &EVENT_COLUMNS).await?;
                let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return self.report_missing().await };
                if (rows.len() as i64) < self.limit {
                    self.report_left_out(first, last).await?;
                }
                Ok(())
            }),
            true => run(follow(&self.asked, list, &EVENT_COLUMNS, "seq_num")),
        }
    }
}

impl Events {
    /// A list has about a megabyte.
    async fn report_left_out(&self, first: &Row, last: &Row) -> Result<(), SourceError> {
        let before = first.number("parent_seq_num").unwrap_or_default();
        if self.after.is_none() {
            if before > 0 {
                eprintln!(
                    "livestore-sidecar: events up to {before} are left out, because a list has about a megabyte: list them with --after"
                );
            }
            return Ok(());
        }
        let store = self.asked.source.open_to_read().await?.store(&self.store).await?;
        let (end, head) = (last.number("seq_num"), store.and_then(|store| store.number("head")));
        if let (Some(end), Some(head)) = (end, head)
            && end < head
        {
            eprintln!(
                "livestore-sidecar: events after {end} are left out, because a list has about a megabyte: go on with --after {end}"
            );
        }
        Ok(())
    }

    /// An empty list is also that of a store without events, so programs that read the output get no other form of it.
    async fn report_missing(&self) -> Result<(), SourceError> {
        if self.asked.source.open_to_read().await?.store(&self.store).await?.is_none() {
            eprintln!("livestore-sidecar: there is no store {:?}", self.store);
        }
        Ok(())
    }
}

impl Tail {
    pub fn run(&self) -> ExitCode {
        run(async {
            let mut list =
                List { of: ListKind::Commits, id: String::new(), after: self.after.unwrap_or(-1), limit: 1000 };
            if self.after.is_none() {
                let end = self.asked.source.open_to_read().await?.list(&list).await?;
                list.after = end.first().and_then(|row| row.number("position")).unwrap_or_default();
            }
            follow(&self.asked, list, &COMMIT_COLUMNS, "position").await
        })
    }
}

impl Commit {
    pub fn run(&self) -> ExitCode {
        run(async {
            let json = |args: &String| RawValue::from_string(args.clone()).map_err(SourceError::Args);
            let args = self.args.as_ref().map(json).transpose()?;
            let seq_num = self.asked.source.open().await?.commit(&self.store, &self.name, args).await?;
            match self.asked.json {
                true => output::line(&serde_json::json!({"seq_num": seq_num}).to_string()),
                false => output::line(&format!("committed as event {seq_num}")),
            }
        })
    }
}

/// Shows one list, and returns its rows.
async fn show(asked: &Asked, list: List, columns: &[&str]) -> Result<Vec<Row>, SourceError> {
    let rows = asked.source.open_to_read().await?.list(&list).await?;
    Output::new(asked.json, columns).table(&rows)?;
    Ok(rows)
}

/// Shows a list, and what is added to it, until the program is ended. `position`: the field by which it goes on. A log that was reset has the
/// same numbers for other events: it is shown from its beginning.
async fn follow(asked: &Asked, mut list: List, columns: &[&str], position: &str) -> Result<(), SourceError> {
    let source: Source = asked.source.open_to_read().await?;
    let output = Output::new(asked.json, columns);
    let mut log = log_of(&source, &list).await?;
    loop {
        let rows = source.list(&list).await?;
        // Asked after the events: if it is the same log still, they are of it.
        match log_of(&source, &list).await? {
            Some(now) if log.as_ref().is_some_and(|log| *log != now) => {
                eprintln!(
                    "livestore-sidecar: the store {:?} was reset, or has a new backend id: from here on, its events from the first one",
                    list.id
                );
                (log, list.after) = (Some(now), 0);
                continue;
            }
            // A store that was dropped may come again.
            None => {}
            now => log = now,
        }
        for row in &rows {
            output.row(row)?;
        }
        match rows.last() {
            Some(last) => list.after = last.number(position).unwrap_or(list.after),
            None => {
                // The last ones of an empty log are all that will come.
                list.after = list.after.max(0);
                sleep(INTERVAL).await;
            }
        }
    }
}

/// The backend id of the log whose events a list has.
async fn log_of(source: &Source, list: &List) -> Result<Option<String>, SourceError> {
    if list.of != ListKind::Events {
        return Ok(None);
    }
    let store = source.store(&list.id).await?;
    Ok(store.and_then(|store| store.text("backend_id")))
}

fn run(command: impl Future<Output = Result<(), SourceError>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(SourceError::from).and_then(|runtime| {
        let done = runtime.block_on(command);
        // A read of the standard input may still wait for more of it.
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has had enough.
        Err(SourceError::System(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("livestore-sidecar: {}", printable(&error.to_string()));
            ExitCode::from(error.exit_code())
        }
    }
}
