//! Pushes while people look at the inspector: five at the overview, five at a store that is written to.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::push::Writers;
use super::{OURS, Size, Systems, say};
use crate::measure::{Bound, Section};
use crate::wire::writer::Target;

const STORES: usize = 64;
const LOOKED_AT: &str = "livestore_sync, with ten inspectors open";

/// Loads a page, and reads what follows on it by itself.
async fn look(port: u16, page: &'static str, attribute: &'static str) {
    let path = live_part(port, page, attribute).await;
    let mut page = request(port, &path, "keep-alive").await;
    let (mut buffer, mut is_first) = (vec![0; 1 << 16], true);
    loop {
        let count = page.read(&mut buffer).await.expect("an answer");
        assert!(count > 0 && (!is_first || buffer.starts_with(b"HTTP/1.1 200")), "the inspector ends");
        is_first = false;
    }
}

async fn request(port: u16, path: &str, connection: &str) -> TcpStream {
    let mut page = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: {connection}\r\n\r\n");
    page.write_all(request.as_bytes()).await.expect("a request");
    page
}

/// The path that a page names for what is live on it.
async fn live_part(port: u16, page: &str, attribute: &str) -> String {
    let mut html = String::new();
    request(port, page, "close").await.read_to_string(&mut html).await.expect("a page");
    let begin = format!("{attribute}=\"");
    let path = html.split_once(&begin).and_then(|(_, rest)| rest.split_once('"')).map(|(path, _)| path);
    path.unwrap_or_else(|| panic!("{page} has no {attribute}: {html}")).replace("&amp;", "&")
}

pub async fn all(systems: &Systems, size: &Size) -> Vec<Section> {
    if !size.wants("inspector") {
        return Vec::new();
    }
    let title = "64 stores, 1 writer each, while ten people look at the inspector";
    say(title);
    let ours = &systems.ours.sidecar;
    let [mut looked_at, mut alone] =
        [LOOKED_AT, OURS].map(|system| Writers::new(system, Target::Rpc(ours.url()), STORES));
    // The stores that are looked at are there before.
    let warm_up = size.time.min(Duration::from_secs(2));
    for (writers, store) in [(&mut looked_at, "inspector-looked-at"), (&mut alone, "inspector-alone")] {
        writers.round(store, 1, warm_up).await;
        writers.rounds.clear();
    }
    for _ in 0..size.rounds.max(6) {
        let mut pages = JoinSet::new();
        for _ in 0..5 {
            pages.spawn(look(ours.port(), "/inspector", "data-live"));
            pages.spawn(look(ours.port(), "/inspector/store?id=inspector-looked-at-0", "data-follow"));
        }
        looked_at.round("inspector-looked-at", 1, size.time).await;
        assert_eq!(pages.len(), 10);
        pages.abort_all();
        while let Some(page) = pages.join_next().await {
            assert!(page.is_err_and(|error| error.is_cancelled()), "the inspector ends");
        }
        alone.round("inspector-alone", 1, size.time).await;
    }
    let figures = vec![looked_at.figure(), alone.figure()];
    vec![Section::new("inspector", title, "events/s", figures).target(OURS, Bound::AtLeast(0.97))]
}
