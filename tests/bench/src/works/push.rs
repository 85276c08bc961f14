//! Pushes: writers that wait for each acknowledgement before the next push, one for each store.

use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::{
    OURS, OURS_ELECTRIC, OURS_PORTABLE, OURS_S2, POSTGRES, S2_LITE, S2_LITE_AT_1_MS, SYNC_CF, Size, Systems, say,
};
use crate::measure::{Bound, Figure, Section, cpu_time};
use crate::systems::{Ours, postgres_tool};
use crate::wire::s2::Api;
use crate::wire::writer::{Target, Writer};

/// The result of a round of one system.
pub struct Round {
    per_second: f64,
    latencies: Vec<Duration>,
    generator_cores: f64,
}

/// One system's writers, with the heads of their logs.
pub struct Writers {
    system: &'static str,
    target: Target,
    heads: Vec<u64>,
    pub rounds: Vec<Round>,
}

impl Writers {
    pub fn new(system: &'static str, target: Target, stores: usize) -> Self {
        Self { system, target, heads: vec![0; stores], rounds: Vec::new() }
    }

    pub async fn round(&mut self, work: &str, batch: u64, time: Duration) {
        let mut writers = Vec::new();
        // Not all at once: a server may have a short queue of connections that it has not accepted yet.
        for (group, heads) in self.heads.chunks(50).enumerate() {
            let opening = heads.iter().enumerate().map(|(index, &head)| {
                let store = format!("{work}-{}", group * 50 + index);
                let target = &self.target;
                async move { Writer::open(target, &store, head).await }
            });
            writers.extend(join_all(opening).await);
        }
        let (start, cpu) = (Instant::now(), cpu_time());
        let mut tasks = JoinSet::new();
        for (index, mut writer) in writers.into_iter().enumerate() {
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                while start.elapsed() < time {
                    let sent = Instant::now();
                    writer.push(batch).await;
                    latencies.push(sent.elapsed());
                }
                (index, latencies)
            });
        }
        let mut latencies = Vec::new();
        while let Some(writer) = tasks.join_next().await {
            let (index, acknowledged) = writer.expect("a writer");
            self.heads[index] += batch * acknowledged.len() as u64;
            latencies.extend(acknowledged);
        }
        let elapsed = start.elapsed().as_secs_f64();
        self.rounds.push(Round {
            per_second: (latencies.len() as u64 * batch) as f64 / elapsed,
            latencies,
            generator_cores: (cpu_time() - cpu).as_secs_f64() / elapsed,
        });
    }

    pub fn figure(self) -> Figure {
        let per_second: Vec<f64> = self.rounds.iter().map(|round| round.per_second).collect();
        let cores = self.rounds.iter().map(|round| round.generator_cores).sum::<f64>() / self.rounds.len() as f64;
        let latencies = self.rounds.into_iter().flat_map(|round| round.latencies).collect();
        let mut figure = Figure::new(self.system, per_second).with_latencies(latencies);
        figure.generator_cores = Some(cores);
        figure
    }
}

/// A kind of pushes, and what it has to reach against others.
struct Work {
    id: &'static str,
    title: &'static str,
    /// Each has one writer.
    stores: usize,
    /// Events a push.
    batch: u64,
    targets: &'static [(&'static str, f64)],
    /// Against another kind that is measured before.
    at_least_as_many_as: Option<&'static str>,
}

const WORKS: [Work; 4] = [
    Work {
        id: "push-1",
        title: "1 writer, 1 event a push",
        stores: 1,
        batch: 1,
        targets: &[(SYNC_CF, 8.0), (S2_LITE, 10.0), (POSTGRES, 0.42)],
        at_least_as_many_as: None,
    },
    Work {
        id: "push-64",
        title: "64 stores, 1 writer each, 1 event a push",
        stores: 64,
        batch: 1,
        targets: &[(SYNC_CF, 60.0), (S2_LITE, 2.0), (POSTGRES, 1.2)],
        at_least_as_many_as: None,
    },
    Work {
        id: "push-1000",
        title: "1,000 stores, 1 writer each, 1 event a push",
        stores: 1000,
        batch: 1,
        targets: &[(POSTGRES, 1.7), (S2_LITE, 1.5)],
        at_least_as_many_as: Some("push-64"),
    },
    Work {
        id: "push-batch",
        title: "1 writer, 100 events a push",
        stores: 1,
        batch: 100,
        targets: &[(SYNC_CF, 60.0), (S2_LITE, 6.0)],
        at_least_as_many_as: None,
    },
];

async fn measure(work: &Work, systems: &Systems, size: &Size) -> Section {
    let &Work { id, title, stores, batch, targets, .. } = work;
    say(title);
    let ours = &systems.ours;
    let mut all = vec![
        Writers::new(OURS, Target::Rpc(ours.sidecar.url()), stores),
        Writers::new(OURS_PORTABLE, Target::Rpc(systems.portable.sidecar.url()), stores),
        Writers::new(OURS_S2, Target::S2(Api::LiveStore, ours.sidecar.port()), stores),
        Writers::new(OURS_ELECTRIC, Target::Electric(ours.sidecar.port()), stores),
    ];
    // A thousand Durable Objects are more than workerd starts in the time that there is.
    let with_cf = stores <= 64;
    if let Some(peers) = &systems.peers {
        all.push(Writers::new(S2_LITE, Target::S2(Api::Rest, peers.s2_lite.port()), stores));
        all.push(Writers::new(S2_LITE_AT_1_MS, Target::S2(Api::Rest, peers.s2_lite_at_1_ms.port()), stores));
        if with_cf {
            all.push(Writers::new(SYNC_CF, Target::Rpc(peers.sync_cf.url()), stores));
        }
    }
    let mut bare = Bare::new(ours, stores.min(64)).await;
    for round in 0..=size.rounds {
        // The first is to warm up: it creates stores, plans statements and fills caches.
        let time = if round == 0 { size.time.min(Duration::from_secs(2)) } else { size.time };
        for writers in &mut all {
            // Own names: the dialects of ours share one log.
            writers.round(&format!("{id}-{}", writers.system.len()), batch, time).await;
            if round == 0 {
                writers.rounds.clear();
            }
        }
        if batch == 1 && systems.peers.is_some() {
            bare.round(time, round > 0);
        }
    }
    let mut figures: Vec<Figure> = all.into_iter().map(Writers::figure).collect();
    if !bare.rounds.is_empty() {
        figures.push(Figure::new(POSTGRES, bare.rounds).with_note(format!(
            "pgbench, {} clients on a Unix socket, one unchecked INSERT and one commit an event",
            bare.clients
        )));
    }
    let section = targets.iter().fold(Section::new(id, title, "events/s", figures), |section, (other, ratio)| {
        section.target(other, Bound::AtLeast(*ratio))
    });
    // Both speak S2.
    let section = match (section.median_of(OURS_S2), section.median_of(S2_LITE)) {
        (Some(ours), Some(lite)) if stores == 1000 => {
            section.claim("s2-lite, both over S2", ours / lite, Bound::AtLeast(1.5))
        }
        _ => section,
    };
    if with_cf { section } else { section.note("sync-cf is left out: it would start a Durable Object for each store.") }
}

/// All measurements of pushes.
pub async fn all(systems: &Systems, size: &Size) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for work in WORKS.iter().filter(|work| size.wants(work.id)) {
        let section = measure(work, systems, size).await;
        let other = sections.iter().find(|section| work.at_least_as_many_as == Some(section.id));
        let section = match other.map(|other| section.figures[0].median / other.figures[0].median) {
            Some(ratio) => section.claim("the same with 64 stores", ratio, Bound::AtLeast(1.0)),
            None => section,
        };
        sections.push(section);
    }
    sections
}

/// The baseline of a Postgres without anything of ours: the same rows, one INSERT and one commit an event.
struct Bare {
    clients: usize,
    script: tempfile::NamedTempFile,
    connection: [String; 6],
    database: String,
    rounds: Vec<f64>,
}

impl Bare {
    async fn new(ours: &Ours, clients: usize) -> Self {
        let cluster = ours.database.cluster();
        let admin = ours.database.admin().await;
        admin
            .batch_execute(
                r#"create table if not exists bare (store bigint, "seqNum" bigint, "parentSeqNum" bigint, name text, args json,
                   "clientId" text, "sessionId" text, "createdAt" timestamptz, primary key (store, "seqNum")); truncate bare"#,
            )
            .await
            .expect("a table");
        let script = tempfile::NamedTempFile::new().expect("a file");
        let insert = r#"\set n :n + 1
insert into bare values (:client_id, :n, :n - 1, 'todoCreated', '{"id":"todo","text":"Something that has to be done soon, number"}', 'bench', 'bench', now());
"#;
        std::fs::write(script.path(), insert).expect("a file");
        let (folder, port) = (cluster.folder().display().to_string(), cluster.port().to_string());
        let connection = ["-h", &folder, "-p", &port, "-U", "postgres"].map(String::from);
        Self { clients, script, connection, database: ours.database.name().into(), rounds: Vec::new() }
    }

    fn round(&mut self, time: Duration, counts: bool) {
        let seconds = time.as_secs().max(1).to_string();
        let clients = self.clients.to_string();
        let start = self.rounds.len() as u64 * 100_000_000 + if counts { 50_000_000 } else { 0 };
        let output = Command::new(postgres_tool("pgbench"))
            .args(&self.connection)
            .args([
                "-n",
                "-M",
                "prepared",
                "-c",
                &clients,
                "-j",
                "2",
                "-T",
                &seconds,
                "-D",
                &format!("n={start}"),
                "-f",
            ])
            .arg(self.script.path())
            .arg(&self.database)
            .output()
            .expect("pgbench");
        let text = String::from_utf8_lossy(&output.stdout);
        let tps = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
        let tps: f64 = tps.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        if counts {
            self.rounds.push(tps);
        }
    }
}
