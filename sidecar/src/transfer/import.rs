use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Args;
use futures_util::SinkExt;
use tokio_postgres::Client;

use super::{Access, TransferError, progress, run};

/// The bytes that are sent at a time.
const CHUNK: usize = 64 << 10;

#[derive(Debug, Args)]
pub struct Import {
    #[command(flatten)]
    access: Access,

    /// A file that `livestore-sidecar export` or `livestore.export_store` has written. Without it, the standard input.
    file: Option<PathBuf>,

    /// The store to import into, if it is to have another id than it had.
    #[arg(long, value_name = "STORE_ID")]
    store: Option<String>,
}

impl Import {
    pub fn run(&self) -> ExitCode {
        run(async {
            let client = self.access.connect().await?;
            match &self.file {
                None => self.read(&client, &mut std::io::stdin().lock(), 0, "standard input").await,
                Some(path) => {
                    let name = path.display().to_string();
                    let file = File::open(path).map_err(TransferError::file(&name))?;
                    let length = file.metadata().map_or(0, |metadata| metadata.len());
                    self.read(&client, &mut BufReader::new(file), length, &name).await
                }
            }
        })
    }

    async fn read(
        &self,
        client: &Client,
        lines: &mut impl BufRead,
        length: u64,
        name: &str,
    ) -> Result<String, TransferError> {
        client.batch_execute("begin; create temp table imported_lines (line text) on commit drop").await?;
        let bar = progress(length, "{bar:40} {bytes}/{total_bytes} read, {eta} left");
        let mut sink = pin!(client.copy_in("copy pg_temp.imported_lines from stdin").await?);
        let (mut line, mut chunk) = (Vec::new(), Vec::with_capacity(CHUNK));
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line).map_err(TransferError::file(name))?;
            bar.inc(read as u64);
            let text = line.trim_ascii();
            if !text.is_empty() {
                escape(text, &mut chunk);
            }
            if chunk.len() >= CHUNK || read == 0 {
                sink.send(Bytes::from(std::mem::take(&mut chunk))).await?;
            }
            if read == 0 {
                break;
            }
        }
        sink.as_mut().finish().await?;
        bar.finish_and_clear();
        let import = "select imported, already_there, head from livestore.import_store('pg_temp.imported_lines', $1)";
        let row = client.query_one(import, &[&self.store]).await?;
        client.batch_execute("commit").await?;
        let (imported, already_there, head): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(format!("imported {imported} events, {already_there} were there already; the head is {head}"))
    }
}

/// A line in the text format of COPY.
fn escape(line: &[u8], out: &mut Vec<u8>) {
    for &byte in line {
        match byte {
            b'\\' => out.extend(b"\\\\"),
            b'\t' => out.extend(b"\\t"),
            b'\r' => out.extend(b"\\r"),
            _ => out.push(byte),
        }
    }
    out.push(b'\n');
}
