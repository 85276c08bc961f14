//! Reads: one client that has nothing gets the whole log.

use std::time::Instant;

use tokio_postgres::Client;

use super::{OURS, OURS_ELECTRIC, OURS_S2, Peers, S2_LITE, SYNC_CF, Size, Systems, say};
use crate::measure::{Bound, Figure, Section};
use crate::wire::electric::Electric;
use crate::wire::rpc::Rpc;
use crate::wire::s2::{Api, S2};

const COPY: &str = "copy … (format binary)";
const STORE: &str = "read";

/// Puts events of the kind that [`crate::wire::event`] makes into a log of ours, past the functions: it is reading that is measured.
pub async fn fill(admin: &Client, store: &str, events: u64) {
    admin
        .batch_execute(&format!(
            r#"select livestore.create_store('{store}');
            insert into livestore.eventlog_1
            select (select id from livestore.stores where store_id = '{store}'), n, n - 1, 'todoCreated',
                format('{{"id":"todo-%s","text":"Something that has to be done soon, number %s"}}', n, n)::json, 'bench', 'bench', now()
            from generate_series(1, {events}) n;
            update livestore.stores set head = {events} where store_id = '{store}'"#
        ))
        .await
        .expect("a log");
    admin.batch_execute("vacuum analyze livestore.eventlog_1").await.expect("a vacuum");
}

/// The same for the peers, through their APIs.
pub async fn fill_peers(peers: &Peers, store: &str, events: u64, events_of_cf: u64) {
    let mut s2 = S2::open(Api::Rest, peers.s2_lite.port(), store, 0).await;
    for _ in 0..events / 1000 {
        s2.push(1000).await;
    }
    let mut cf = Rpc::open(&peers.sync_cf.url(), store, 0).await;
    for _ in 0..events_of_cf / 100 {
        cf.push(100).await;
    }
}

async fn copy(admin: &Client) -> u64 {
    use futures_util::StreamExt;
    let sql = format!(
        r#"copy (select "seqNum", "parentSeqNum", name, args, "clientId", "sessionId", "createdAt" from only livestore.eventlog_1
           where store = (select id from livestore.stores where store_id = '{STORE}') order by "seqNum") to stdout (format binary)"#
    );
    let mut rows = std::pin::pin!(admin.copy_out(&sql).await.expect("a copy"));
    let mut count = 0;
    while let Some(row) = rows.next().await {
        row.expect("a row");
        count += 1;
    }
    // A message a row, the header in front of the first; and one for the trailer.
    count - 1
}

pub async fn all(systems: &Systems, size: &Size) -> Vec<Section> {
    let events: u64 = if size.is_quick { 200_000 } else { 1_000_000 };
    // At 100 events a push, sync-cf needs about 15 seconds to store this many.
    let events_of_cf: u64 = if size.is_quick { 5_000 } else { 20_000 };
    say(format!("read {events} events"));
    let ours = &systems.ours;
    let admin = ours.database.admin().await;
    fill(&admin, STORE, events).await;
    if let Some(peers) = &systems.peers {
        fill_peers(peers, STORE, events, events_of_cf).await;
    }

    let mut readers = vec![
        Reading::new(OURS, "WebSocket", Reader::Rpc(ours.sidecar.url()), events),
        Reading::new(OURS_S2, "SSE", Reader::S2(Api::LiveStore, ours.sidecar.port()), events),
        Reading::new(
            OURS_ELECTRIC,
            "a request a page, each after the one before",
            Reader::Electric(ours.sidecar.port()),
            events,
        ),
        Reading::new(COPY, "of the same rows, to one client that drops them", Reader::Copy(&admin), events),
    ];
    if let Some(peers) = &systems.peers {
        let fewer = format!("WebSocket; {events_of_cf} events, since more take too long");
        readers.push(Reading::new(S2_LITE, "SSE", Reader::S2(Api::Rest, peers.s2_lite.port()), events));
        readers.push(Reading::new(SYNC_CF, fewer, Reader::Rpc(peers.sync_cf.url()), events_of_cf));
    }
    for round in 0..=size.rounds {
        for reading in &mut readers {
            let start = Instant::now();
            assert_eq!(reading.reader.read(STORE, reading.events).await, reading.events, "{}", reading.system);
            // The first is to warm up.
            if round > 0 {
                reading.per_second.push(reading.events as f64 / start.elapsed().as_secs_f64());
            }
        }
    }
    let figures = readers
        .into_iter()
        .map(|reading| Figure::new(reading.system, reading.per_second).with_note(reading.note))
        .collect();
    let title = format!("Read a log of {events} events from the start, one client");
    let section = Section::new("read", title, "events/s", figures);
    let of = |ours: &str, other: &str| {
        section.median_of(ours).unwrap_or(f64::NAN) / section.median_of(other).unwrap_or(f64::NAN)
    };
    let (sse, electric, sse_lite) = (of(OURS_S2, COPY), of(OURS_ELECTRIC, COPY), of(OURS_S2, S2_LITE));
    let section = section.target(COPY, Bound::AtLeast(0.6)).claim("copy, over SSE", sse, Bound::AtLeast(0.5)).claim(
        "copy, sync-electric",
        electric,
        Bound::AtLeast(0.35),
    );
    vec![match systems.peers {
        None => section,
        Some(_) => section.target(SYNC_CF, Bound::AtLeast(200.0)).target(S2_LITE, Bound::AtLeast(1.8)).claim(
            "s2-lite, both over SSE",
            sse_lite,
            Bound::AtLeast(1.8),
        ),
    }]
}

/// A client of the whole log.
pub enum Reader<'a> {
    Rpc(String),
    S2(Api, u16),
    Electric(u16),
    Copy(&'a Client),
}

impl Reader<'_> {
    /// Reads so many events from the beginning, and returns how many there were.
    pub async fn read(&self, store: &str, events: u64) -> u64 {
        match self {
            Self::Rpc(url) => Rpc::open_to_read(url, store).await.read(events).await,
            Self::S2(api, port) => S2::open(*api, *port, store, 0).await.read(events).await,
            Self::Electric(port) => Electric::open(*port, store, 0).await.read(events).await,
            Self::Copy(admin) => copy(admin).await,
        }
    }
}

/// A client of one system, with what it has read in each round.
struct Reading<'a> {
    system: &'static str,
    note: String,
    reader: Reader<'a>,
    events: u64,
    per_second: Vec<f64>,
}

impl<'a> Reading<'a> {
    fn new(system: &'static str, note: impl Into<String>, reader: Reader<'a>, events: u64) -> Self {
        Self { system, note: note.into(), reader, events, per_second: Vec::new() }
    }
}
