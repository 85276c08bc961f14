use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;

use clap::Args;
use futures_util::TryStreamExt;
use reqwest::Url;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::output::progress;
use super::run;
use super::source::{Address, Source, SourceError, endpoint, get};

/// The events that are read at a time.
const EVENTS: i32 = 1000;

/// The beginning of the last line of a file that is whole (`livestore.export_store`).
const END: &[u8] = b"{\"storeId\":";

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    source: Address,

    /// The store whose events to write.
    store: String,

    /// Where to write to. Without it, to the standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Export {
    pub fn run(&self) -> ExitCode {
        run(async {
            let source = self.source.open_to_read().await?;
            let events = match &self.output {
                None => self.write(&source, &mut BufWriter::new(std::io::stdout().lock()), "standard output").await?,
                Some(path) => self.write_file(&source, path).await?,
            };
            // The standard output may be the file.
            eprintln!("exported {events} events");
            Ok(())
        })
    }

    /// A file that has its name is whole. Of one that does not become so, nothing is left. One that is replaced keeps its permissions.
    async fn write_file(&self, source: &Source, path: &Path) -> Result<i64, SourceError> {
        let name = path.display().to_string();
        let replaced = std::fs::metadata(path).ok();
        // A device or a pipe, such as /dev/null, is written to: another file in its place would break what else uses it. /dev/stdout may be a file.
        let is_of_system =
            ["/dev", "/proc"].iter().any(|folder| path.starts_with(folder)) && !path.starts_with("/dev/shm");
        if is_of_system || replaced.as_ref().is_some_and(|replaced| !replaced.is_file()) {
            let file = File::options().append(true).open(path).map_err(SourceError::file(&name))?;
            return self.write(source, &mut BufWriter::new(file), &name).await;
        }
        // A link stays one.
        let path = &match (path.canonicalize(), path.read_link()) {
            (Ok(path), _) => path,
            (Err(_), Ok(target)) => path.with_file_name(target),
            (Err(_), Err(_)) => path.to_owned(),
        };
        let (file, part) = create_beside(path).map_err(SourceError::file(&name))?;
        let written: Result<i64, SourceError> = async {
            if let Some(replaced) = replaced {
                file.set_permissions(replaced.permissions()).map_err(SourceError::file(&name))?;
            }
            let mut file = BufWriter::new(file);
            let events = self.write(source, &mut file, &name).await?;
            let synced =
                file.into_inner().map_err(std::io::IntoInnerError::into_error).and_then(|file| file.sync_all());
            synced.and_then(|()| std::fs::rename(&part, path)).map_err(SourceError::file(&name))?;
            Ok(events)
        }
        .await;
        if written.is_err() {
            // The error that counts is the first one.
            let _ = std::fs::remove_file(&part);
        }
        written
    }

    /// Returns the number of events.
    async fn write(&self, source: &Source, out: &mut impl Write, name: &str) -> Result<i64, SourceError> {
        let events = match source {
            Source::Database(client) => self.read_database(client, out, name).await?,
            Source::Sidecar { url, client } => self.read_sidecar(url, client, out, name).await?,
        };
        out.flush().map_err(SourceError::file(name))?;
        Ok(events)
    }

    async fn read_database(&self, client: &Client, out: &mut impl Write, name: &str) -> Result<i64, SourceError> {
        // Of a large log, statements take long. All of them see one state of it.
        let begin = "set statement_timeout = 0; begin isolation level repeatable read read only";
        client.batch_execute(begin).await?;
        let head: i64 = client.query_one("select livestore.head($1)", &[&self.store]).await?.try_get(0)?;
        let bar = progress(Some(head.unsigned_abs()), "{bar:40} {pos}/{len} events, {per_sec}, {eta} left");
        let read = client.prepare("select * from livestore._export_events($1, $2, $3, $4)").await?;
        let (mut after, mut events, mut digest) = (0_i64, 0_i64, Vec::<u8>::new());
        loop {
            let parameters: [&(dyn ToSql + Sync); 4] = [&self.store, &after, &EVENTS, &digest];
            // Written as they come: events may be large.
            let mut rows = pin!(client.query_raw(&read, parameters).await?);
            let before = events;
            while let Some(row) = rows.try_next().await? {
                writeln!(out, "{}", row.try_get::<_, &str>(1)?).map_err(SourceError::file(name))?;
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
        writeln!(out, "{}", end.try_get::<_, &str>(0)?).map_err(SourceError::file(name))?;
        bar.finish_and_clear();
        Ok(events)
    }

    async fn read_sidecar(
        &self,
        url: &Url,
        client: &reqwest::Client,
        out: &mut impl Write,
        name: &str,
    ) -> Result<i64, SourceError> {
        let mut url = endpoint(url, "api/export")?;
        url.query_pairs_mut().append_pair("id", &self.store);
        let mut answer = get(client, url).await?;
        let bar = progress(None, "{spinner} {pos} events, {per_sec}");
        // The number of whole lines, and the beginning of the last one.
        let (mut lines, mut line) = (0_i64, Vec::new());
        let mut is_over = false;
        while let Some(piece) = answer.chunk().await.map_err(SourceError::NoAnswer)? {
            for &byte in &piece {
                if byte == b'\n' {
                    (is_over, lines) = (line == END, lines + 1);
                    line.clear();
                } else if line.len() < END.len() {
                    line.push(byte);
                }
            }
            out.write_all(&piece).map_err(SourceError::file(name))?;
            bar.set_position(lines.unsigned_abs());
        }
        bar.finish_and_clear();
        match is_over && line.is_empty() {
            true => Ok(lines - 1),
            false => Err(SourceError::Refused("the export ended early: the file is not whole".into())),
        }
    }
}

/// Creates a file for this export alone: two that write to one would spoil each other's.
fn create_beside(path: &Path) -> std::io::Result<(File, OsString)> {
    let mut n = 0;
    loop {
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".{}-{n}.part", std::process::id()));
        match File::options().write(true).create_new(true).open(&part) {
            // Processes of two containers may have one number.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => n += 1,
            created => return created.map(|file| (file, part)),
        }
    }
}
