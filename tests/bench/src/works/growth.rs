//! Growth: the cost of a push and of a first page in a large database beside a small one.

use std::time::{Duration, Instant};

use livestore_tests::cluster::Cluster;

use super::{Size, say};
use crate::measure::{Bound, Figure, Section, milliseconds};
use crate::systems::Ours;
use crate::wire::rpc::Rpc;

/// The size of a database.
struct Data {
    stores: u64,
    events: u64,
}

const SMALL: Data = Data { stores: 1_000, events: 100_000 };

impl Data {
    /// Logs of the same length, made past the functions: it is not appending that is measured here.
    async fn fill(&self, ours: &Ours) {
        let admin = ours.database.admin().await;
        let each = self.events / self.stores;
        say(format!("  {} stores with {each} events each", self.stores));
        let mut from = 1;
        while from <= self.stores {
            let to = (from + 49_999).min(self.stores);
            let sql = format!(
                r#"insert into livestore.stores (store_id, backend_id, head)
                   select 'grown-' || n, livestore.backend_id('grown-' || n), {each} from generate_series({from}, {to}) n;
                   insert into livestore.eventlog_1
                   select s.id, n, n - 1, 'todoCreated',
                       format('{{"id":"todo-%s","text":"Something that has to be done soon, number %s"}}', n, n)::json, 'bench', 'bench', now()
                   from generate_series({from}, {to}) number
                   join livestore.stores s on s.store_id = 'grown-' || number
                   cross join generate_series(1, {each}) n"#
            );
            admin.batch_execute(&sql).await.expect("events");
            from = to + 1;
        }
        for statement in ["vacuum analyze livestore.eventlog_1", "vacuum analyze livestore.stores", "checkpoint"] {
            admin.batch_execute(statement).await.expect("maintenance");
        }
    }

    /// A first page and then a push, on stores all over the database, each by a client that has just connected.
    async fn ask(&self, ours: &Ours, count: u64, round: u64) -> (Vec<Duration>, Vec<Duration>) {
        let each = self.events / self.stores;
        let (mut pages, mut pushes) = (Vec::new(), Vec::new());
        for index in 0..count {
            // Far from one another; in the large database, none twice.
            let store = 1 + (index * 7_919 + round * 104_729) % self.stores;
            let name = format!("grown-{store}");
            let mut reader = Rpc::open(&ours.sidecar.url(), &name, 0).await;
            let start = Instant::now();
            let read = reader.read(each).await;
            pages.push(start.elapsed());
            let mut writer = Rpc::open(&ours.sidecar.url(), &name, read).await;
            let start = Instant::now();
            writer.push(1).await;
            pushes.push(start.elapsed());
            assert!(read >= each, "{name}: {read}");
        }
        (pages, pushes)
    }
}

pub async fn all(cluster: &'static Cluster, size: &Size) -> Vec<Section> {
    let large = if size.is_quick {
        Data { stores: 20_000, events: 400_000 }
    } else {
        Data { stores: 1_000_000, events: 20_000_000 }
    };
    // The same length of a log: a page of the one is a page of the other.
    let small = Data { stores: SMALL.stores, events: SMALL.stores * (large.events / large.stores) };
    say("growth");
    let databases = [Ours::start(cluster).await, Ours::start(cluster).await];
    small.fill(&databases[0]).await;
    large.fill(&databases[1]).await;
    let mut figures: [[Vec<Duration>; 2]; 2] = Default::default();
    let mut medians: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..=size.rounds as u64 {
        for (which, (data, ours)) in [&small, &large].into_iter().zip(&databases).enumerate() {
            let (pages, pushes) = data.ask(ours, 300, round).await;
            if round == 0 {
                continue;
            }
            for (kind, mut times) in [pages, pushes].into_iter().enumerate() {
                times.sort_unstable();
                medians[which][kind].push(milliseconds(times[times.len() / 2]));
                figures[which][kind].append(&mut times);
            }
        }
    }
    let mut sections = Vec::new();
    let kinds = [("growth-pull", "Growth: the first page of a log", 1.15), ("growth-push", "Growth: a push", 1.3)];
    for (kind, (id, title, most)) in kinds.into_iter().enumerate() {
        let name = |data: &Data| format!("{} stores, {} events", data.stores, data.events);
        let [few, many] = [0, 1].map(|which| {
            let data = if which == 0 { &small } else { &large };
            Figure::new(&name(data), medians[which][kind].clone()).with_latencies(figures[which][kind].clone())
        });
        let against = few.system.clone();
        sections.push(Section::new(id, title, "ms, p50", vec![many, few]).target(&against, Bound::AtMost(most)));
    }
    sections
}
