//! More pushes than the database commits: those that are accepted are answered soon, the others are told to wait, and when there are
//! fewer, all is as before.

use std::time::{Duration, Instant};

use livestore_tests::cluster::Database;
use livestore_tests::events::chain;
use livestore_tests::sidecar::Sidecar;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Pushes one event to a store of its own. Returns the status, the answer, and the time that it took.
async fn push(client: reqwest::Client, url: String, store: String) -> (u16, String, Duration) {
    let start = Instant::now();
    let body = json!({"storeId": store, "batch": chain(0, 1)}).to_string();
    let request = client.post(format!("{url}/api/s2")).header("content-type", "application/json").body(body);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap(), start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_are_refused_early_and_nothing_piles_up() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    // Two hundred events a second, or fewer where the machine is busy.
    let hook =
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.005); return new; end $$;
                create trigger slow before insert on livestore.eventlog_1 for each row execute function slow()";
    admin.batch_execute(hook).await.unwrap();
    let client = reqwest::Client::new();
    let (memory, url) = (sidecar.memory(), sidecar.http_url());

    // Three times as many, and nobody waits for an answer before the next.
    let start = Instant::now();
    let mut pushes = JoinSet::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 0..80 {
        ticks.tick().await;
        for n in 0..60 {
            pushes.spawn(push(client.clone(), url.clone(), format!("overload-{tick}-{n}")));
        }
    }
    let (mut acknowledged, mut refused, mut longest) = (0_u32, 0_u32, Duration::ZERO);
    while let Some(pushed) = pushes.join_next().await {
        let (status, answer, took) = pushed.unwrap();
        longest = longest.max(took);
        match status {
            200 => acknowledged += 1,
            _ => {
                assert!(status == 429 && answer.contains("try again later"), "{status}: {answer}");
                refused += 1;
            }
        }
    }
    let stored: i64 = admin.query_one("select count(*) from livestore.events", &[]).await.unwrap().get(0);
    assert_eq!(stored, i64::from(acknowledged), "what is in the log, and what was acknowledged");
    assert!(refused > 100, "{refused} were refused, {acknowledged} acknowledged, after {longest:?} at most");
    // Without a limit of time the last would have waited until all of them were committed, but for the 8 s that sending took: 16 s
    // at two hundred a second. A commit of 512 takes 2.6 s of them.
    let all = start.elapsed().mul_f64(f64::from(acknowledged + refused) / f64::from(acknowledged));
    let limit = (all - Duration::from_secs(8)).mul_f64(0.75);
    assert!(longest < limit, "an answer took {longest:?}, the limit is {limit:?}");
    assert!(sidecar.memory() < memory + (256 << 20), "from {memory} to {} bytes", sidecar.memory());
    assert_eq!(sidecar.hits("queue").await, f64::from(refused));

    // Afterwards it is as if nothing had been.
    let (status, answer, took) = push(client, url, "afterwards".into()).await;
    assert_eq!(status, 200, "{answer}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// A stranger that asks for the state all the time must not take a sidecar out of its load balancer.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_ask_whether_it_is_ready_do_not_make_it_look_unready() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let (client, url) = (reqwest::Client::new(), format!("{}/readyz", sidecar.http_url()));
    let asking = async {
        let asks = (0..100).map(|_| async {
            for _ in 0..20 {
                assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
            }
        });
        futures_util::future::join_all(asks).await
    };
    let checks = async || -> i64 {
        let sql =
            "select coalesce(sum(xact_commit), 0)::bigint from pg_stat_database where datname = current_database()";
        database.admin().await.query_one(sql, &[]).await.unwrap().get(0)
    };
    let before = checks().await;
    asking.await;
    // The statistics of a connection are written once a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    sidecar.get("/readyz").await;
    let took = checks().await - before;
    assert!(took < 500, "{took} transactions for 2,000 requests");
}
