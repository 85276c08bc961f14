//! `--page-cache-bytes`: what many read at the same time is read from Postgres once, and never as it was before.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use livestore_tests::breaker::Breaker;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, up_to};
use livestore_tests::eventually;
use livestore_tests::http_rpc::{Answer, post, pull, send};
use livestore_tests::rpc::Rpc;
use livestore_tests::shape;
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::json;
use tokio_postgres::Client;

/// Two and a half pages.
const EVENTS: i64 = 2500;

pub async fn sql(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn fill(admin: &Client, store: &str) {
    let events = chain(0, EVENTS).to_string();
    admin.execute("select livestore.push($1, $2::text::json)", &[&store, &events]).await.unwrap();
}

pub async fn read(sidecar: &Sidecar, store: &str) -> Answer {
    let answer = send(post(sidecar, store, pull(store, None))).await;
    assert_eq!(answer.exit()["_tag"], "Success", "{answer:?}");
    answer
}

/// The name of the first event.
pub fn first_name(answer: &Answer) -> String {
    let batches = answer.frames.iter().filter_map(|frame| frame.pointer("/values/0/batch/0/eventEncoded/name"));
    batches.map(|name| name.as_str().unwrap().to_owned()).next().unwrap()
}

pub async fn pages(sidecar: &Sidecar, from: &str) -> f64 {
    sidecar.metric(&format!("livestore_pages_read_total{{from=\"{from}\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_reads_each_page_once_or_twice() {
    let database = Database::new().await;
    let admin = database.admin().await;
    fill(&admin, "s").await;
    let sidecar = Sidecar::on(&database).await;
    let over_http = join_all((0..20).map(|_| read(&sidecar, "s")));
    let over_websocket = join_all((0..20).map(async |_| {
        let mut rpc = Rpc::open(&sidecar.url(), "s").await;
        rpc.pull(json!("1"), "s", false).await;
        let mut numbers = Vec::new();
        loop {
            let frame = rpc.frame().await;
            if frame["_tag"] == "Exit" {
                return numbers;
            }
            let batches = frame["values"].as_array().into_iter().flatten().flat_map(|value| value["batch"].as_array());
            numbers.extend(batches.flatten().map(|event| event["eventEncoded"]["seqNum"].as_i64().unwrap()));
            rpc.send(json!({"_tag": "Ack", "requestId": "1"})).await;
        }
    }));
    let (over_http, over_websocket) = tokio::join!(over_http, over_websocket);
    for numbers in over_http.iter().map(Answer::numbers).chain(over_websocket) {
        assert_eq!(numbers, up_to(EVENTS));
    }
    // Twice, if somebody asks for the last page while it is being read.
    let read_by_postgres = pages(&sidecar, "database").await;
    assert!((3.0..=6.0).contains(&read_by_postgres), "{read_by_postgres} pages for 40 clients");
    // Nothing has changed since.
    assert_eq!(read(&sidecar, "s").await.numbers(), up_to(EVENTS));
    assert_eq!(pages(&sidecar, "database").await, read_by_postgres);
    // The last page has: the rest is there.
    sql(&admin, "select livestore.commit('s', 'later')").await;
    assert_eq!(read(&sidecar, "s").await.numbers(), up_to(EVENTS + 1));
    assert_eq!(pages(&sidecar, "database").await, read_by_postgres + 1.0);

    let without = Start::new(database.url("sidecar")).arguments(&["--page-cache-bytes", "0"]).ready().await;
    for _ in 0..2 {
        assert_eq!(read(&without, "s").await.numbers(), up_to(EVENTS + 1));
    }
    assert_eq!((pages(&without, "database").await, without.log().contains("cache")), (6.0, false));
}

/// A reader that asks after a commit gets its event: it joins no read that began before.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_has_everything_that_was_there_when_it_was_asked_for() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let network = Breaker::to(database.cluster().port()).await;
    // A single connection, on which the statement is prepared: otherwise it would be seen there when it is prepared.
    let url = database.url_at("sidecar", network.port());
    let sidecar = Start::new(url).arguments(&["--database-connections", "1"]).ready().await;
    sql(&admin, "select livestore.commit('s', 'e')").await;
    assert_eq!(read(&sidecar, "s").await.numbers(), [1]);
    let now: SystemTime = admin.query_one("select clock_timestamp()", &[]).await.unwrap().get(0);
    let before = pages(&sidecar, "database").await;
    // An answer of Postgres is on its way for so long.
    network.slow(Duration::from_millis(500));
    let first = async {
        assert_eq!(read(&sidecar, "s").await.numbers(), [1], "the second event was there in time: this shows nothing");
    };
    let later = async {
        let reads = "select count(*) from pg_stat_activity
            where query like '%livestore.read\\_page%' and query_start > $1 and state = 'idle' and datname = current_database()
                and pid <> pg_backend_pid()";
        eventually("the first one is read", async || {
            admin.query_one(reads, &[&now]).await.unwrap().get::<_, i64>(0) > 0
        })
        .await;
        sql(&admin, "select livestore.commit('s', 'e')").await;
        join_all((0..10).map(async |_| assert_eq!(read(&sidecar, "s").await.numbers(), [1, 2]))).await;
    };
    tokio::join!(first, later);
    // The first read, and one that all others share; some may come too late for it.
    let after = pages(&sidecar, "database").await;
    assert!((before + 2.0..before + 6.0).contains(&after), "{before} {after}");
}

/// A client that reads by requests finds its next page read, from the second request on.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_that_a_client_asks_for_next_is_read_while_it_takes_in_the_one_before() {
    let database = Database::new().await;
    let admin = database.admin().await;
    fill(&admin, "s").await;
    let sidecar = Sidecar::on(&database).await;
    let client = reqwest::Client::new();
    let ask = async |offset: &str, handle: &str| {
        let params = [("table", "eventlog_6_s"), ("offset", offset), ("handle", handle)];
        let url = reqwest::Url::parse_with_params(&format!("http://127.0.0.1:{}/v1/shape", sidecar.port()), &params);
        shape::Answer::to(client.get(url.unwrap())).await
    };
    let first = ask("-1", "").await;
    assert_eq!((first.numbers().len(), pages(&sidecar, "database").await), (1000, 1.0), "others stop after one page");
    let second = ask(first.offset(), first.handle()).await;
    eventually("the next page is read", async || pages(&sidecar, "database").await == 3.0).await;
    let third = ask(second.offset(), second.handle()).await;
    assert_eq!([first.numbers(), second.numbers(), third.numbers()].concat(), up_to(EVENTS));
    assert_eq!((pages(&sidecar, "database").await, pages(&sidecar, "cache").await), (3.0, 1.0));
}

/// Rewritten events and logs that were reset are read as they are, soon; nobody follows these stores.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_as_it_was_before() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let sidecars = [
        Sidecar::on(&database).await,
        Start::new(database.url("sidecar")).arguments(&["--live", "poll"]).ready().await,
    ];
    for (n, sidecar) in sidecars.iter().enumerate() {
        let store = format!("s{n}");
        fill(&admin, &store).await;
        let before = read(sidecar, &store).await;
        assert_eq!(before.numbers(), up_to(EVENTS));
        let name = first_name(&before);
        let kept = pages(sidecar, "cache").await;
        assert_eq!(first_name(&read(sidecar, &store).await), name);
        assert!(pages(sidecar, "cache").await >= kept + 3.0, "all pages are kept");

        sql(&admin, &format!("select livestore.rewrite_event('{store}', 1, 'rewritten', null)")).await;
        eventually("it is read as it is", async || first_name(&read(sidecar, &store).await) == "rewritten").await;
        read(sidecar, &store).await;
        sql(&admin, &format!("select livestore.reset_store('{store}')")).await;
        eventually("it is empty", async || read(sidecar, &store).await.numbers().is_empty()).await;
        fill(&admin, &store).await;
        assert_eq!(first_name(&read(sidecar, &store).await), name);
    }
}

/// While the sidecar does not hear of changes, it keeps nothing.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_without_news() {
    let database = Database::new().await;
    let admin = database.admin().await;
    fill(&admin, "s").await;
    let network = Breaker::to(database.cluster().port()).await;
    let listen_url = database.url_at("sidecar", network.port());
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--listen-url", &listen_url]).ready().await;
    read(&sidecar, "s").await;
    let kept = pages(&sidecar, "cache").await;
    read(&sidecar, "s").await;
    assert_eq!(pages(&sidecar, "cache").await, kept + 3.0);
    network.cut();
    eventually("it hears of nothing", async || sidecar.metric("livestore_listening").await == 0.0).await;
    for n in 0..3 {
        sql(&admin, &format!("select livestore.rewrite_event('s', 1, 'rewritten {n}', null)")).await;
        assert_eq!(first_name(&read(&sidecar, "s").await), format!("rewritten {n}"));
    }
    network.mend();
    eventually("it hears again", async || sidecar.metric("livestore_listening").await == 1.0).await;
    read(&sidecar, "s").await;
    let kept = pages(&sidecar, "cache").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    read(&sidecar, "s").await;
    assert_eq!(pages(&sidecar, "cache").await, kept + 3.0);
}
