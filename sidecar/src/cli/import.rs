use std::path::PathBuf;
use std::process::ExitCode;

use bytes::Bytes;
use clap::Args;
use futures_util::{Stream, TryStreamExt};
use reqwest::{Body, Url};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::output::progress;
use super::run;
use super::source::{Address, LONG, Source, SourceError, endpoint, refusal};
use crate::log::{Imported, import};

/// The bytes that are read at a time.
const CHUNK: usize = 64 << 10;

#[derive(Debug, Args)]
pub struct Import {
    #[command(flatten)]
    source: Address,

    /// A file that `livestore-sidecar export` or `livestore.export_store` has written. Without it, the standard input.
    file: Option<PathBuf>,

    /// The store to import into, if it is to have another id than it had.
    #[arg(long, value_name = "STORE_ID")]
    store: Option<String>,
}

impl Import {
    pub fn run(&self) -> ExitCode {
        run(async {
            let source = self.source.open().await?.but_no_front().await?;
            let Imported { imported, already_there, head } = match &self.file {
                None => self.send(&source, pieces(tokio::io::stdin(), None, "standard input")).await?,
                Some(path) => {
                    let name = path.display().to_string();
                    let file = tokio::fs::File::open(path).await.map_err(SourceError::file(&name))?;
                    let length = file.metadata().await.map(|metadata| metadata.len()).ok();
                    self.send(&source, pieces(file, length, &name)).await?
                }
            };
            eprintln!("imported {imported} events, {already_there} were there already; the head is {head}");
            Ok(())
        })
    }

    async fn send(
        &self,
        source: &Source,
        pieces: impl Stream<Item = Result<Bytes, SourceError>> + Send + 'static,
    ) -> Result<Imported, SourceError> {
        match source {
            Source::Database(client) => {
                // Of a large log, statements take long.
                client.batch_execute("set statement_timeout = 0").await?;
                import(client, self.store.as_deref(), pieces).await
            }
            Source::Sidecar { url, client } => self.post(url, client, Body::wrap_stream(pieces)).await,
        }
    }

    async fn post(&self, url: &Url, client: &reqwest::Client, lines: Body) -> Result<Imported, SourceError> {
        let mut url = endpoint(url, "api/import")?;
        if let Some(store) = &self.store {
            url.query_pairs_mut().append_pair("store", store);
        }
        let request = client.post(url).timeout(LONG).header("content-type", "application/x-ndjson");
        let answer = request.body(lines).send().await.map_err(SourceError::NoAnswer)?;
        match answer.status().is_success() {
            true => {
                let text = answer.text().await.map_err(SourceError::NoAnswer)?;
                serde_json::from_str(&text).map_err(|error| SourceError::Refused(error.to_string()))
            }
            false => Err(refusal(answer).await),
        }
    }
}

/// The pieces of a file as they are read, with a bar on the terminal.
fn pieces<R: AsyncRead + Send + 'static>(
    source: R,
    length: Option<u64>,
    name: &str,
) -> impl Stream<Item = Result<Bytes, SourceError>> + Send + use<R> {
    let bar = progress(length, "{bar:40} {bytes}/{total_bytes} read, {eta} left");
    let name = name.to_owned();
    ReaderStream::with_capacity(source, CHUNK)
        .inspect_ok(move |piece| bar.inc(piece.len() as u64))
        .map_err(move |error| SourceError::File { name: name.clone(), error })
}
