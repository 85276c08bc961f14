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

/// Reads what follows on a page by itself.
async fn look(port: u16, path: &'static str) {
    let mut page = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    page.write_all(request.as_bytes()).await.expect("a request");
    let (mut buffer, mut is_first) = (vec![0; 1 << 16], true);
    loop {
        let count = page.read(&mut buffer).await.expect("an answer");
        assert!(count > 0 && (!is_first || buffer.starts_with(b"HTTP/1.1 200")), "the inspector ends");
        is_first = false;
    }
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
    for round in 0..=size.rounds.max(6) {
        let time = if round == 0 { size.time.min(Duration::from_secs(2)) } else { size.time };
        let mut pages = JoinSet::new();
        for _ in 0..5 {
            pages.spawn(look(ours.port(), "/inspector/live"));
            pages.spawn(look(ours.port(), "/inspector/follow?id=inspector-looked-at-0&after=0"));
        }
        looked_at.round("inspector-looked-at", 1, time).await;
        assert_eq!(pages.len(), 10);
        pages.abort_all();
        while pages.join_next().await.is_some() {}
        alone.round("inspector-alone", 1, time).await;
        if round == 0 {
            looked_at.rounds.clear();
            alone.rounds.clear();
        }
    }
    let figures = vec![looked_at.figure(), alone.figure()];
    vec![Section::new("inspector", title, "events/s", figures).target(OURS, Bound::AtLeast(0.97))]
}
