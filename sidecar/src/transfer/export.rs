use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;

use clap::Args;
use futures_util::TryStreamExt;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::{Access, TransferError, progress, run};

/// The events that are read at a time.
const EVENTS: i32 = 1000;

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    access: Access,

    /// The store whose events to write.
    store: String,

    /// Where to write to. Without it, to the standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Export {
    pub fn run(&self) -> ExitCode {
        run(async {
            let client = self.access.connect().await?;
            match &self.output {
                None => self.write(&client, &mut BufWriter::new(std::io::stdout().lock()), "standard output").await,
                Some(path) => {
                    let name = path.display().to_string();
                    // A file that has its name is whole.
                    let mut part = path.clone().into_os_string();
                    part.push(".part");
                    let file = File::create(&part).map_err(TransferError::file(&name))?;
                    let mut file = BufWriter::new(file);
                    let done = self.write(&client, &mut file, &name).await?;
                    let synced =
                        file.into_inner().map_err(std::io::IntoInnerError::into_error).and_then(|file| file.sync_all());
                    synced.and_then(|()| std::fs::rename(&part, path)).map_err(TransferError::file(&name))?;
                    Ok(done)
                }
            }
        })
    }

    async fn write(&self, client: &Client, out: &mut impl Write, name: &str) -> Result<String, TransferError> {
        // All its statements see one state of the log.
        client.batch_execute("begin isolation level repeatable read read only").await?;
        let head: i64 = client.query_one("select livestore.head($1)", &[&self.store]).await?.try_get(0)?;
        let bar = progress(head.unsigned_abs(), "{bar:40} {pos}/{len} events, {per_sec}, {eta} left");
        let read = client.prepare("select * from livestore._export_events($1, $2, $3, $4)").await?;
        let (mut after, mut events, mut digest) = (0_i64, 0_i64, Vec::<u8>::new());
        loop {
            let parameters: [&(dyn ToSql + Sync); 4] = [&self.store, &after, &EVENTS, &digest];
            // Written as they come: events may be large.
            let mut rows = pin!(client.query_raw(&read, parameters).await?);
            let before = events;
            while let Some(row) = rows.try_next().await? {
                writeln!(out, "{}", row.try_get::<_, &str>(1)?).map_err(TransferError::file(name))?;
                (after, digest) = (row.try_get(0)?, row.try_get(2)?);
                events += 1;
            }
            if events == before {
                break;
            }
            bar.set_position(after.unsigned_abs());
        }
        let end =
            client.query_one("select livestore._export_end($1, $2, $3)", &[&self.store, &events, &digest]).await?;
        writeln!(out, "{}", end.try_get::<_, &str>(0)?)
            .and_then(|()| out.flush())
            .map_err(TransferError::file(name))?;
        bar.finish_and_clear();
        Ok(format!("exported {events} events"))
    }
}
