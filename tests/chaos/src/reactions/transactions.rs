//! Sessions that commit events in transactions of their own: short and long ones, with savepoints, rolled back, and with a deferred
//! trigger that commits once more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_postgres::{Client, Error};

use super::{AUDIT, STORES, placed};
use crate::history::{EventId, Outcome, Placed, Push, Recorder};
use crate::system::System;

const WRITERS: u32 = 3;

/// The first number of a writer: those of devices are smaller.
const FIRST: u32 = 10_000;

/// The number of what the trigger commits, in the first database. In the next one, it is the next number.
const TRIGGER: u32 = 20_000;

/// A table whose deferred trigger commits an event, and takes down which. `TRIGGER` stands for the number.
const AUDITS: &str = "
    create table public.audits (n bigint generated always as identity);
    create table public.audited (seq_num bigint, client bigint, n bigint);
    create function public.audit() returns trigger language plpgsql as $$
    begin
        insert into public.audited
        select livestore.commit('sql-audit', 'e', json_build_object('client', TRIGGER, 'n', new.n)), TRIGGER, new.n;
        return null;
    end $$;
    create constraint trigger audit after insert on public.audits deferrable initially deferred for each row execute function public.audit();
    create database neighbour";

pub async fn create(system: &System) {
    for (number, trigger) in system.databases().zip(TRIGGER..) {
        let admin = system.connect(number).await;
        let audits = AUDITS.replace("TRIGGER", &trigger.to_string());
        for statement in audits.rsplitn(2, ';').collect::<Vec<_>>().into_iter().rev() {
            admin.batch_execute(statement).await.expect("tables of a trigger");
        }
    }
}

pub fn start(system: &Arc<System>, recorder: &Recorder, seed: u64, is_over: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let writers = (0..WRITERS).map(|number| {
        let (system, is_over) = (Arc::clone(system), Arc::clone(is_over));
        let mut writer = Writer {
            number: FIRST + number,
            n: 0,
            random: ChaCha8Rng::seed_from_u64(seed ^ (u64::from(FIRST + number) << 32)),
            recorder: recorder.clone(),
        };
        tokio::spawn(async move {
            let mut clients = Vec::new();
            for number in system.databases() {
                clients.push(system.connect(number).await);
            }
            while !is_over.load(Ordering::SeqCst) {
                let number = writer.random.random_range(system.databases());
                let client = &mut clients[number];
                if writer.write(&system, number, client).await.is_err() && client.is_closed() {
                    *client = system.connect(number).await;
                }
                let pause = writer.random.random_range(0..300);
                sleep(Duration::from_millis(pause)).await;
            }
        })
    });
    let neighbour = |number| tokio::spawn(stay_in_a_transaction(Arc::clone(system), number, Arc::clone(is_over)));
    writers.chain(system.databases().map(neighbour)).collect()
}

/// Somebody in another database has a transaction open that never ends: nobody may wait for it.
async fn stay_in_a_transaction(system: Arc<System>, number: usize, is_over: Arc<AtomicBool>) {
    while !is_over.load(Ordering::SeqCst) {
        let cluster = system.database(number).cluster();
        if let Ok(client) = cluster.try_connect("postgres", "neighbour").await {
            let _ = client.batch_execute("begin; select pg_current_xact_id()").await;
            while !client.is_closed() && !is_over.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(200)).await;
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}

struct Writer {
    number: u32,
    n: u32,
    random: ChaCha8Rng,
    recorder: Recorder,
}

impl Writer {
    /// One transaction in a database.
    async fn write(&mut self, system: &System, number: usize, client: &mut Client) -> Result<(), Error> {
        let start = self.recorder.now();
        let mut tickets = Vec::new();
        let mut transaction = client.transaction().await?;
        // Every session locks them in this order.
        for store in STORES {
            let store = format!("sql-{store}");
            if !self.random.random_bool(0.4) || system.database_of(&store).await != number {
                continue;
            }
            if self.random.random_bool(0.2) {
                let savepoint = transaction.savepoint("taken_back").await?;
                self.commit(&savepoint, &store).await?;
                savepoint.rollback().await?;
            }
            for _ in 0..self.random.random_range(1..4) {
                let placed = self.commit(&transaction, &store).await?;
                tickets.push((store.clone(), placed));
            }
            let pause = if self.random.random_bool(0.5) { self.random.random_range(0..500) } else { 0 };
            sleep(Duration::from_millis(pause)).await;
        }
        if self.random.random_bool(0.3) && system.database_of(AUDIT).await == number {
            transaction.batch_execute("insert into public.audits default values").await?;
        }
        if self.random.random_bool(0.2) {
            return transaction.rollback().await;
        }
        let begun = |(store, placed): &(String, Placed)| {
            let push = Push {
                client: self.number,
                dialect: "sql".into(),
                since: 0,
                start,
                end: self.recorder.now(),
                outcome: Outcome::Unknown,
                events: vec![*placed],
            };
            self.recorder.push_begins(store, push)
        };
        let tickets: Vec<_> = tickets.iter().map(begun).collect();
        transaction.commit().await?;
        for ticket in &tickets {
            self.recorder.push_ends(ticket, Outcome::Ok);
        }
        Ok(())
    }

    async fn commit(&mut self, transaction: &tokio_postgres::Transaction<'_>, store: &str) -> Result<Placed, Error> {
        self.n += 1;
        let (client, n) = (i64::from(self.number), i64::from(self.n));
        let commit = "select livestore.commit($1, 'e', json_build_object('client', $2::bigint, 'n', $3::bigint))";
        let seq_num = transaction.query_one(commit, &[&store, &client, &n]).await?.get(0);
        Ok(Placed { seq_num, event: EventId { client: self.number, n: self.n } })
    }
}

/// Takes down what the trigger has committed: the rows of its table are there if the events are.
pub async fn record_audits(system: &System, recorder: &Recorder) {
    for number in system.databases() {
        let admin = system.connect(number).await;
        let rows = admin.query("select seq_num, client, n from public.audited order by seq_num", &[]).await;
        for row in rows.expect("what the trigger has committed") {
            let placed = placed(&row);
            let push = Push {
                client: placed.event.client,
                dialect: "sql".into(),
                since: 0,
                start: 0,
                end: recorder.now(),
                outcome: Outcome::Ok,
                events: vec![placed],
            };
            recorder.push_begins(AUDIT, push);
        }
    }
}
