//! Lasting errors are answered at once: text that Postgres cannot hold, and rows that cannot be read.

use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::dialects::{Caller, DIALECTS};
use livestore_tests::events::{chain, event};
use livestore_tests::eventually;
use livestore_tests::http_rpc;
use livestore_tests::relay::{self, Peer};
use livestore_tests::shape::{Answer, get, pull};
use livestore_tests::sidecar::{Sidecar, Start};
use reqwest::{Client, RequestBuilder};
use serde_json::json;

/// Much less than a database that is away is waited for.
const AT_ONCE: Duration = Duration::from_secs(10);

async fn status(request: RequestBuilder) -> (u16, String) {
    let response = request.timeout(AT_ONCE).send().await.expect("an answer at once");
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_postgres_cannot_hold_is_refused_where_it_comes_in() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    database.admin().await.execute("select livestore.push('bugs', $1)", &[&chain(0, 1)]).await.unwrap();
    for table in ["\"eventlog_6_bugs\0x\"", "\"pub\0lic\".\"eventlog_6_bugs\""] {
        for params in [
            &[("table", table), ("offset", "-1")][..],
            &[("table", table), ("offset", "0_1"), ("handle", "x"), ("live", "true"), ("cursor", "1")],
        ] {
            let (status, text) = status(get(&sidecar, params)).await;
            assert!(status == 400 && text.contains("U+0000"), "{status} {text}");
        }
    }
    for path in ["/v1/streams?prefix=a%00", "/v1/streams?start_after=%00", "/v1/streams/a%00b/records?seq_num=0"] {
        let (status, text) = status(Client::new().get(format!("{}{path}", sidecar.http_url()))).await;
        assert!(status == 422 && text.contains("U+0000"), "{path}: {status} {text}");
    }
    let streams = Client::new().post(format!("{}/v1/streams", sidecar.http_url()));
    assert_eq!(status(streams.body(json!({"stream": "a\0b"}).to_string())).await.0, 422);
    let log = sidecar.log();
    assert!(!log.contains("waits for the database") && !log.contains("invalid byte sequence"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayed_event_that_postgres_cannot_hold_is_refused_where_it_comes_in() {
    let database = Database::new().await;
    let start = Start::new(database.url("sidecar")).arguments(&["--relay-store", "relayed"]);
    let sidecar = start.ready().await;
    let mut peer = Peer::join(&relay::url(&sidecar), "a").await;
    let mut event = relay::event("a", 1, json!({}));
    event["eventName"] = json!("a\0b");
    peer.push(json!([event])).await;
    let error = peer.next_of("error").await;
    assert!(error.to_string().contains("U+0000"), "{error}");
    peer.push(relay::events("a", [2])).await;
    peer.next_of("ack").await;
}

/// A time outside the range of the dialects is sent as the nearest one inside it, so that nobody's sync ends because of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_time_that_cannot_be_told_is_read_all_the_same() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    for (store, at) in
        [("infinite", "infinity"), ("late", "290000-01-01T00:00:00Z"), ("early", "4713-01-01 00:00:00+00 BC")]
    {
        admin.execute("select livestore.push($1, $2)", &[&store, &chain(0, 3)]).await.unwrap();
        let update = format!(
            "update livestore.eventlog_1 set \"createdAt\" = '{at}'
             where store = (select id from livestore.stores where store_id = '{store}') and \"seqNum\" = 2"
        );
        admin.batch_execute(&update).await.unwrap();
        for dialect in DIALECTS {
            let answer = tokio::time::timeout(AT_ONCE, Caller::new(&sidecar, store).read(dialect)).await;
            let answer = answer.unwrap_or_else(|_| panic!("{store}, {dialect}: no answer"));
            // S2 numbers from 0, and Electric writes numbers as text.
            let numbers = ["\"seqNum\":3", "\"seqNum\":\"3\"", "\\\"seqNum\\\":3"];
            assert!(numbers.iter().any(|number| answer.text.contains(number)), "{store}, {dialect}: {answer:?}");
        }
        let told = if at.contains("BC") { "0000-01-01T00:00:00.000Z" } else { "9999-12-31T23:59:59.999Z" };
        let answer = Caller::new(&sidecar, store).read("cf-ws").await.text;
        assert!(answer.contains(told), "{answer}");
        let is_it = |line: &&str| line.contains("createdAt") && line.contains(store);
        eventually("it is logged", || async { sidecar.log().lines().any(|line| is_it(&line)) }).await;
        let log = sidecar.log();
        let line = log.lines().find(is_it);
        let line = line.unwrap_or_else(|| panic!("{store}: {log}"));
        assert!(line.contains("\"WARN\"") && line.contains("\"seq_num\":2"), "{line}");
    }
    // Nobody is told again and again.
    assert_eq!(sidecar.log().lines().filter(|line| line.contains("createdAt")).count(), 3);
}

/// A row that cannot be read stops only its own log: the events before it are read, clients that read on are told of it at once,
/// and so is the operator. Other stores go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_is_answered_at_once_and_told_to_the_operator() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    for store in ["broken", "whole"] {
        admin.execute("select livestore.push($1, $2)", &[&store, &chain(0, 3)]).await.unwrap();
    }
    let spoil = "alter table livestore.eventlog_1 alter name drop not null;
        update livestore.eventlog_1 set name = null
        where store = (select id from livestore.stores where store_id = 'broken') and \"seqNum\" = 3";
    database.everywhere(spoil).await;
    for dialect in DIALECTS {
        let answer = tokio::time::timeout(AT_ONCE, Caller::new(&sidecar, "broken").read(dialect)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{dialect}: no answer"));
        let has_before = ["\"seqNum\":2", "\"seqNum\":\"2\"", "\\\"seqNum\\\":2"];
        assert!(has_before.iter().any(|number| answer.text.contains(number)), "{dialect}: {answer:?}");
        // The others ask for one page a request.
        let reads_on = ["cf-ws", "cf-http", "s2"].contains(&dialect);
        assert!(!reads_on || answer.text.contains("the server cannot read this"), "{dialect}: {answer:?}");
        let whole = Caller::new(&sidecar, "whole").read(dialect).await;
        assert!(!whole.text.contains("cannot read"), "{dialect}: {whole:?}");
    }
    let backend_id: String = admin.query_one("select livestore.backend_id('broken')", &[]).await.unwrap().get(0);
    let (code, text) = status(pull(&sidecar, "broken", Some(("2_0", &backend_id)), true)).await;
    assert!(code == 500 && text.contains("cannot read this"), "{code} {text}");
    let params = [("table", "eventlog_6_broken"), ("offset", "2_0"), ("handle", &backend_id)];
    assert_eq!(status(get(&sidecar, &params)).await.0, 500);
    let http =
        http_rpc::send(http_rpc::post(&sidecar, "broken", http_rpc::pull("broken", Some((&backend_id, 2))))).await;
    assert!(http.exit().to_string().contains("cannot read this"), "{http:?}");
    let path = format!("{}/v1/streams/broken/records?seq_num=2", sidecar.http_url());
    assert_eq!(status(Client::new().get(path)).await.0, 500);

    let log = sidecar.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("an event cannot be read")).collect();
    assert_eq!(lines.len(), 1, "once a minute: {log}");
    for part in ["\"ERROR\"", "broken", "\"seq_num\":3"] {
        assert!(lines[0].contains(part), "{}", lines[0]);
    }
    // A store that is mended is read on.
    database.everywhere("update livestore.eventlog_1 set name = 'mended' where name is null").await;
    let (code, text) = status(pull(&sidecar, "broken", Some(("2_0", &backend_id)), false)).await;
    assert!(code == 200 && text.contains("mended"), "{code} {text}");
    let pushed = Caller::new(&sidecar, "broken").write("s2", json!([event(3, "e", json!({}))])).await;
    assert_eq!(pushed.status, 200, "{pushed:?}");
}

/// A page that is read before its client asks for it is read once. Its client may never ask, and its memory is that of all readers.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_nobody_waits_for_is_not_tried_again() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    for store in ["cut", "whole"] {
        admin.execute("select livestore.push($1, $2)", &[&store, &chain(0, 5)]).await.unwrap();
    }
    let cut = "delete from livestore.eventlog_1
        where store = (select id from livestore.stores where store_id = 'cut') and \"seqNum\" > 3";
    database.everywhere(cut).await;
    let first = Answer::to(pull(&sidecar, "cut", None, false)).await;
    assert_eq!(first.numbers(), [1, 2, 3]);
    // So many would be all of the memory.
    for _ in 0..25 {
        let request = pull(&sidecar, "cut", Some(("1_0", first.handle())), false);
        let (status, text) = status(request).await;
        assert!(status == 200 && text.contains("\"seqNum\":\"3\""), "{status} {text}");
    }
    let answer = tokio::time::timeout(AT_ONCE, Caller::new(&sidecar, "whole").read("cf-ws")).await;
    assert!(answer.expect("an answer at once").text.contains("\"seqNum\":5"));
    eventually("no memory is taken", || async { sidecar.metric("livestore_buffer_bytes").await == 0.0 }).await;
}
