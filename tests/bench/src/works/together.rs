//! Many clients that have nothing read the same log at the same moment: a team after a deploy.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::sleep;
use tokio_postgres::Client;

use super::read::{Reader, fill, fill_peers};
use super::{OURS, OURS_ELECTRIC, OURS_S2, S2_LITE, SYNC_CF, Size, Systems, say};
use crate::measure::{Bound, Figure, Section};
use crate::wire::s2::Api;

const CLIENTS: usize = 100;
const EVENTS: u64 = 20_000;

/// What sync-cf can do in a like time.
const CLIENTS_OF_CF: usize = 10;
const EVENTS_OF_CF: u64 = 2_000;

/// The readers of one system, and what they took in each round.
struct Team<'a> {
    system: &'static str,
    reader: Reader<'a>,
    clients: usize,
    events: u64,
    note: String,
    per_second: Vec<f64>,
    latencies: Vec<Duration>,
    /// The events that Postgres read in the last round, for each of the log; of our systems.
    from_postgres: f64,
}

impl<'a> Team<'a> {
    fn new(system: &'static str, protocol: &str, reader: Reader<'a>, clients: usize, events: u64) -> Self {
        let note = format!("{protocol}; {clients} clients, {events} events each");
        let (per_second, latencies) = (Vec::new(), Vec::new());
        Self { system, reader, clients, events, note, per_second, latencies, from_postgres: f64::NAN }
    }

    async fn round(&mut self, store: &str) {
        let start = Instant::now();
        let times = join_all((0..self.clients).map(|_| async {
            assert_eq!(self.reader.read(store, self.events).await, self.events, "{}", self.system);
            start.elapsed()
        }))
        .await;
        self.per_second.push((self.clients as u64 * self.events) as f64 / start.elapsed().as_secs_f64());
        self.latencies.extend(times);
    }

    fn slowest(&self) -> f64 {
        Figure::new(self.system, Vec::new())
            .with_latencies(self.latencies.clone())
            .latency
            .map_or(f64::NAN, |l| l.p99 / l.p50)
    }
}

/// The events that Postgres has read so far. Backends tell it after a second.
async fn events_read(admin: &Client) -> i64 {
    sleep(Duration::from_millis(1500)).await;
    let sql = "select pg_stat_force_next_flush(), pg_stat_clear_snapshot(),
        (select coalesce(idx_tup_fetch, 0) + coalesce(seq_tup_read, 0) from pg_stat_user_tables where relname = 'eventlog_1' and schemaname = 'livestore')";
    admin.query_one(sql, &[]).await.expect("statistics").get(2)
}

pub async fn all(systems: &Systems, size: &Size) -> Vec<Section> {
    let title = format!("{CLIENTS} clients read the same {EVENTS} events at the same moment");
    say(&title);
    let ours = &systems.ours;
    let (admin, port) = (ours.database.admin().await, ours.sidecar.port());
    // The log of each round is one that nobody has read before.
    let stores: Vec<String> = (0..=size.rounds).map(|round| format!("together-{round}")).collect();
    for store in &stores {
        for dialect in ["ws", "s2", "electric"] {
            fill(&admin, &format!("{store}-{dialect}"), EVENTS).await;
        }
        if let Some(peers) = &systems.peers {
            fill_peers(peers, store, EVENTS, EVENTS_OF_CF).await;
        }
    }
    let mut teams = vec![
        ("-ws", Team::new(OURS, "WebSocket", Reader::Rpc(ours.sidecar.url()), CLIENTS, EVENTS)),
        ("-s2", Team::new(OURS_S2, "SSE", Reader::S2(Api::LiveStore, port), CLIENTS, EVENTS)),
        ("-electric", Team::new(OURS_ELECTRIC, "a request a page", Reader::Electric(port), CLIENTS, EVENTS)),
    ];
    if let Some(peers) = &systems.peers {
        let s2 = Reader::S2(Api::Rest, peers.s2_lite.port());
        teams.push(("", Team::new(S2_LITE, "SSE", s2, CLIENTS, EVENTS)));
        let cf = Reader::Rpc(peers.sync_cf.url());
        teams.push(("", Team::new(SYNC_CF, "WebSocket", cf, CLIENTS_OF_CF, EVENTS_OF_CF)));
    }
    for (round, store) in stores.iter().enumerate() {
        for (dialect, team) in &mut teams {
            let before = events_read(&admin).await;
            team.round(&format!("{store}{dialect}")).await;
            team.from_postgres = (events_read(&admin).await - before) as f64 / EVENTS as f64;
            // The first is to warm up.
            if round == 0 {
                team.per_second.clear();
                team.latencies.clear();
            }
        }
    }
    let slowest: Vec<f64> = teams.iter().take(3).map(|(_, team)| team.slowest()).collect();
    let most_from_postgres = teams.iter().take(3).map(|(_, team)| team.from_postgres).fold(0.0, f64::max);
    let figures: Vec<Figure> = teams
        .into_iter()
        .map(|(_, team)| Figure::new(team.system, team.per_second).with_latencies(team.latencies).with_note(team.note))
        .collect();
    let over_sse = |section: &Section| {
        section.median_of(OURS_S2).unwrap_or(f64::NAN) / section.median_of(S2_LITE).unwrap_or(f64::NAN)
    };
    let section = Section::new("together", title, "events/s in all", figures)
        .note("The latencies are the times until a client has the whole log.");
    let sse = over_sse(&section);
    let section = section
        .claim("events that Postgres reads, for each of the log", most_from_postgres, Bound::AtMost(2.0))
        .claim("p99 of the last client, against p50", slowest.into_iter().fold(0.0, f64::max), Bound::AtMost(3.0));
    vec![match systems.peers {
        None => section,
        Some(_) => section
            .target(S2_LITE, Bound::AtLeast(4.0))
            .claim("s2-lite, both over SSE", sse, Bound::AtLeast(4.0))
            .target(SYNC_CF, Bound::AtLeast(4.0)),
    }]
}
