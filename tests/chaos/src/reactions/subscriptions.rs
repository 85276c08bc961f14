//! Durable subscriptions that the sidecars serve: a handler, which has each event exactly once, and a receiver of webhooks, which
//! has it at least once.

use std::time::Duration;

use livestore_tests::client::Node;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::placed;
use crate::history::{EventId, Followed, Placed, Recorder};
use crate::system::System;

/// Signs the webhooks.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The handler fails now and then, and all of a batch with it: of a hundred events, every fourth time.
const HANDLER: &str = "
    create table public.handled (id bigint generated always as identity, store_id text, seq_num bigint, client bigint, n bigint);
    create table public.calm ();
    create function public.handle(event livestore.polled_event) returns void language plpgsql security definer
        set search_path = pg_catalog, pg_temp as $$
    begin
        if random() < 0.003 and not exists (select from public.calm) then
            raise exception 'not now';
        end if;
        if event.change is null then
            insert into public.handled (store_id, seq_num, client, n)
            values (event.store_id, event.seq_num, (event.args->>'client')::bigint, (event.args->>'n')::bigint);
        end if;
    end $$;
    select livestore.subscribe(
        'handled', partitions => 4, max_failures => 1000, handler => 'public.handle(livestore.polled_event)', start => 'beginning'
    )";

pub struct Subscriptions(Vec<Subscribed>);

impl Subscriptions {
    pub async fn start(system: &System, recorder: &Recorder) -> Self {
        let mut subscribed = Vec::new();
        for database in system.databases() {
            subscribed.push(Subscribed::start(system, database, recorder).await);
        }
        Self(subscribed)
    }

    /// Waits until all have had everything, and takes down what.
    pub async fn finish(self, system: &System, recorder: &Recorder, patience: Duration) {
        for subscribed in self.0 {
            subscribed.finish(system, recorder, patience).await;
        }
    }
}

/// The subscriptions of a database.
struct Subscribed {
    database: usize,
    receiver: Node,
    receiving: JoinHandle<()>,
    /// Makes the receiver fail now and then.
    disturbing: JoinHandle<()>,
}

impl Subscribed {
    async fn start(system: &System, database: usize, recorder: &Recorder) -> Self {
        let receiver = Node::webhook_receiver();
        let messages = receiver.messages_of("webhooks");
        let listening =
            receiver.call("listen", json!({"sub": "webhooks", "secret": SECRET})).await.expect("a receiver");
        let admin = system.connect(database).await;
        admin.batch_execute(HANDLER).await.expect("a handler");
        let url = listening["url"].as_str().expect("a URL");
        let subscribe = "select livestore.subscribe('sent', partitions => 4, max_failures => 1000, url => $1)";
        admin.execute(subscribe, &[&url]).await.expect("a subscription");
        let receiving = tokio::spawn(receive(messages, database, recorder.clone()));
        let disturbing = tokio::spawn(disturb(receiver.clone()));
        Self { database, receiver, receiving, disturbing }
    }

    /// Waits until both have had everything, and takes down what.
    async fn finish(self, system: &System, recorder: &Recorder, patience: Duration) {
        self.disturbing.abort();
        let _ = self.disturbing.await;
        self.receiver.call("answer", json!({"status": 204})).await.expect("a receiver");
        let start = Instant::now();
        let behind = "select coalesce(string_agg(name || ' ' || lag_events || ' ' || coalesce(error, ''), ', '), '') from livestore.subscriptions where lag_events > 0 or failures > 0";
        let admin = system.connect(self.database).await;
        // It might fail so often that the next try would be in minutes.
        admin.batch_execute("insert into public.calm default values").await.expect("no more failures");
        loop {
            let behind: String = admin.query_one(behind, &[]).await.expect("the subscriptions").get(0);
            if behind.is_empty() {
                eprintln!("subscriptions have caught up after {:.1} s", start.elapsed().as_secs_f64());
                break;
            }
            if start.elapsed() > patience {
                eprintln!("subscriptions are behind after {} s: {behind}", patience.as_secs());
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let handled = "select store_id, seq_num, client, n from public.handled order by id";
        for row in admin.query(handled, &[]).await.expect("what was handled") {
            let followed = Followed { database: self.database, has_left: false, position: None, placed: placed(&row) };
            recorder.follow(row.get("store_id"), "handler", false, followed);
        }
        // All messages have arrived. The channel closes once nobody has the process any more.
        drop(self.receiver);
        self.receiving.await.expect("what was received");
    }
}

async fn receive(mut messages: UnboundedReceiver<Value>, database: usize, recorder: Recorder) {
    while let Some(message) = messages.recv().await {
        let message = &message["value"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        // A signature of another time is refused: the clock of its sidecar has jumped.
        if message["status"] != 204 {
            continue;
        }
        for event in
            message["data"]["events"].as_array().into_iter().flatten().filter(|event| event["change"].is_null())
        {
            let number = |value: &Value| u32::try_from(value.as_u64().unwrap_or(u64::MAX)).unwrap_or(u32::MAX);
            let id = EventId { client: number(&event["args"]["client"]), n: number(&event["args"]["n"]) };
            let placed = Placed { seq_num: event["seqNum"].as_i64().unwrap_or_default(), event: id };
            recorder.follow(
                &text(&event["storeId"]),
                "webhook",
                true,
                Followed { database, has_left: false, position: None, placed },
            );
        }
    }
}

/// Away, slow and well again, in turns.
async fn disturb(receiver: Node) {
    loop {
        for (rule, lasts) in [
            (json!({"status": 204}), 4000),
            (json!({"status": 503}), 1500),
            (json!({"status": 204}), 4000),
            (json!({"status": 500}), 500),
            (json!({"status": 204, "delay": 300}), 2000),
        ] {
            let _ = receiver.call("answer", rule).await;
            sleep(Duration::from_millis(lasts)).await;
        }
    }
}
