//! `make gameday`: five faults, one after the other, on a system that runs. For each: what the operator sees, and where; the remedy of
//! docs/runbook.md, tried; and that it was one. With `--nocapture` it tells the story.

use std::time::Instant;

use livestore_tests::cluster::Database;
use livestore_tests::events::event;
use livestore_tests::http_rpc::{self, Answer};
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::{eventually, root};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

struct Day {
    database: Database,
    sidecar: Sidecar,
    admin: Client,
    begun: Instant,
}

impl Day {
    fn tell(&self, what: &str) {
        println!("{:6.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// A fault begins, which has its own heading in the runbook.
    fn fault(&self, what: &str, alert: &str) {
        let page = std::fs::read_to_string(root().join("docs/runbook.md")).unwrap();
        assert!(page.contains(&format!("\n### {alert}\n")), "the runbook has no {alert}");
        println!();
        self.tell(&format!("FAULT   {what}. The alert is {alert}"));
    }

    async fn metric(&self, series: &str, shows: impl Fn(f64) -> bool) {
        eventually(series, || async { shows(self.sidecar.metric(series).await) }).await;
        self.tell(&format!("SEEN    /metrics: {series} {}", self.sidecar.metric(series).await));
    }

    async fn log(&self, words: &[&str]) {
        let line = || {
            let log = self.sidecar.log();
            log.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned)
        };
        eventually(&words.join(", "), || async { line().is_some() }).await;
        self.tell(&format!("SEEN    log: {}", line().unwrap()));
    }

    /// A finding of `livestore-sidecar check`, and whether there is one.
    async fn check(&self, words: &str) -> bool {
        let mut command = Start::program();
        command.args(["check", "--database-url", &self.database.url("sidecar"), "--insecure-no-auth"]);
        let report = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let report = String::from_utf8(report.stdout).unwrap();
        let Some(line) = report.lines().find(|line| line.contains(words)) else { return false };
        self.tell(&format!("SEEN    livestore-sidecar check: {}", line.trim()));
        true
    }

    async fn remedy(&self, what: &str, statement: &str) {
        self.tell(&format!("REMEDY  {what}"));
        self.admin.batch_execute(statement).await.unwrap();
    }

    /// A push of a device, which goes on while the day does.
    fn push(&self, store: &str, parent: i64, name: &str) -> JoinHandle<Answer> {
        let batch = json!([event(parent, name, json!({}))]);
        let request = http_rpc::post(&self.sidecar, store, json!([http_rpc::push(store, batch)]));
        tokio::spawn(http_rpc::send(request))
    }

    async fn pushed(&self, push: JoinHandle<Answer>) {
        let answer = push.await.unwrap();
        assert_eq!(answer.exit()["_tag"], "Success", "{answer:?}");
        self.tell("OVER    the push of a device is acknowledged");
    }
}

/// Postgres is away: pushes wait, and nobody is told that they failed.
async fn postgres_is_away(day: &Day) {
    day.fault("Postgres stops", "LivestoreSidecarDoesNotListen");
    let cluster = day.database.cluster();
    tokio::task::block_in_place(|| cluster.pg_ctl(&["stop", "-m", "immediate"]));
    day.metric("livestore_listening", |value| value == 0.0).await;
    eventually("/readyz", || async { day.sidecar.get("/readyz").await.0 == 503 }).await;
    day.tell(&format!("SEEN    /readyz: 503, {}", day.sidecar.get("/readyz").await.1.trim()));
    let push = day.push("todos", 1, "todoCreated");
    day.log(&["a commit waits for the database"]).await;
    day.tell("REMEDY  start Postgres");
    tokio::task::block_in_place(|| cluster.pg_ctl(&["start"]));
    day.pushed(push).await;
    day.metric("livestore_listening", |value| value == 1.0).await;
}

/// A session that has written to a store, and stays open over lunch.
async fn a_store_is_held(day: &Day) {
    day.fault("somebody leaves a transaction open", "LivestoreStoresHeld");
    let holder = day.database.connect("sidecar").await;
    holder.batch_execute("begin; select livestore.commit('todos', 'lunch')").await.unwrap();
    let push = day.push("todos", 3, "todoCreated");
    day.metric("livestore_long_held_stores", |value| value == 1.0).await;
    eventually("check names it", || day.check("a transaction of sidecar (process")).await;
    day.remedy(
        "end the session that the SQL of the runbook shows",
        "select pg_terminate_backend(pid) from pg_stat_activity
        where state = 'idle in transaction' and now() - xact_start > interval '1 second'",
    )
    .await;
    let answer = push.await.unwrap();
    // The event of the session is gone with it, so this device was a step ahead: it pulls, and pushes again.
    assert_ne!(answer.exit()["_tag"], "Success", "{answer:?}");
    day.pushed(day.push("todos", 2, "todoCreated")).await;
    day.metric("livestore_long_held_stores", |value| value == 0.0).await;
}

/// A new trigger refuses what devices push.
async fn a_hook_refuses(day: &Day) {
    day.fault("a new trigger refuses an event that the app in the field pushes", "LivestorePushesRefused");
    let trigger = "create function public.strict() returns trigger language plpgsql security definer
        set search_path = pg_catalog, pg_temp as $$ begin raise exception 'todos need a title'; end $$;
        create trigger strict before insert on livestore.eventlog_1 for each row execute function public.strict()";
    day.admin.batch_execute(trigger).await.unwrap();
    let answer = day.push("todos", 3, "todoCreated").await.unwrap();
    assert_ne!(answer.exit()["_tag"], "Success", "{answer:?}");
    day.metric("livestore_refusals_total{asked=\"push\",reason=\"hook\"}", |value| value == 1.0).await;
    day.log(&["a client is refused", "todos need a title", "\"todos\""]).await;
    day.remedy(
        "drop the trigger; the device goes on by itself within half a minute",
        "drop trigger strict on livestore.eventlog_1",
    )
    .await;
    day.pushed(day.push("todos", 3, "todoCreated")).await;
}

/// A handler that fails has given up an event.
async fn a_handler_fails(day: &Day) {
    day.fault("the handler of a subscription fails", "LivestoreDeadLetters");
    let handler = "create table public.orders (id text);
        create function public.on_order(event livestore.polled_event) returns void language plpgsql security definer
        set search_path = pg_catalog, pg_temp as $$ begin
            insert into public.order (id) values ((event).store_id);
        end $$;
        select livestore.subscribe('orders', names => '{ordered}', max_failures => 1, handler => 'public.on_order(livestore.polled_event)');
        select livestore.commit('shop', 'ordered')";
    day.admin.batch_execute(handler).await.unwrap();
    day.metric("livestore_subscription_dead_letters{subscription=\"orders\"}", |value| value == 1.0).await;
    let error: String = day.admin.query_one("select error from livestore.dead_letters", &[]).await.unwrap().get(0);
    day.tell(&format!("SEEN    livestore.dead_letters: {error}"));
    assert!(error.contains("public.order"), "{error}");
    day.remedy(
        "fix the handler, and send the event again",
        "create or replace function public.on_order(event livestore.polled_event) returns void language plpgsql security definer
        set search_path = pg_catalog, pg_temp as $$ begin
            insert into public.orders (id) values ((event).store_id);
        end $$;
        select livestore.resend(id) from livestore.dead_letters",
    )
    .await;
    let orders = "select count(*) from public.orders";
    eventually("the order", || async { day.admin.query_one(orders, &[]).await.unwrap().get::<_, i64>(0) == 1 }).await;
    day.metric("livestore_subscription_dead_letters{subscription=\"orders\"}", |value| value == 0.0).await;
    day.tell("OVER    the order is in the table");
}

/// Somebody else has all connections of Postgres when a sidecar needs new ones.
async fn no_connection_is_left(day: &Day) {
    day.fault("another program takes all connections of Postgres", "LivestoreSidecarDoesNotListen");
    // Its sidecar does not look, so that the other one gets all places.
    day.sidecar.signal("STOP");
    day.admin
        .batch_execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'sidecar'")
        .await
        .unwrap();
    let sessions = "select count(*) from pg_stat_activity where usename = 'sidecar'";
    eventually("they end", || async { day.admin.query_one(sessions, &[]).await.unwrap().get::<_, i64>(0) == 0 }).await;
    let (url, mut taken) = (day.database.url("stranger"), Vec::new());
    while let Ok((client, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
        tokio::spawn(connection);
        taken.push(client);
    }
    day.sidecar.signal("CONT");
    day.metric("livestore_listening", |value| value == 0.0).await;
    let push = day.push("todos", 4, "todoCreated");
    day.log(&["a commit waits for the database", "connection slots"]).await;
    let used = "select count(*) || ' of ' || current_setting('max_connections') from pg_stat_activity where backend_type = 'client backend'";
    let used: String = day.admin.query_one(used, &[]).await.unwrap().get(0);
    day.tell(&format!("SEEN    pg_stat_activity: {used} connections are taken"));
    day.remedy(
        "end the other program's sessions",
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'stranger'",
    )
    .await;
    day.pushed(push).await;
    day.metric("livestore_listening", |value| value == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_faults_are_seen_where_the_runbook_says_and_mended_as_it_says() {
    let database = Database::alone().await;
    let sidecar = Start::new(database.url("sidecar")).ready().await;
    let admin = database.admin().await;
    let mut day = Day { database, sidecar, admin, begun: Instant::now() };
    day.pushed(day.push("todos", 0, "todoCreated")).await;
    postgres_is_away(&day).await;
    // The old connection went with the server.
    day.admin = day.database.admin().await;
    a_store_is_held(&day).await;
    a_hook_refuses(&day).await;
    a_handler_fails(&day).await;
    no_connection_is_left(&day).await;
    day.database.stop();
}
