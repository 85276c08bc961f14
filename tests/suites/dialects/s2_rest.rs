//! S2's REST API: `@livestore/sync-s2` 0.4.0 from npm behind a server as LiveStore's guide shows it, and the API by hand.

use std::time::{Duration, Instant};

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::device::Device;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::sse::{Message, Messages};
use livestore_tests::tokens::{WITH_SECRET, token};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

fn request(sidecar: &Sidecar, method: Method, path: &str) -> RequestBuilder {
    Client::new().request(method, format!("{}/v1{path}", sidecar.http_url())).header("s2-basin", "basin-of-tests")
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
}

async fn get(sidecar: &Sidecar, path: &str) -> (u16, Value) {
    answer(request(sidecar, Method::GET, path)).await
}

async fn post(sidecar: &Sidecar, path: &str, body: Value) -> (u16, Value) {
    answer(request(sidecar, Method::POST, path).body(body.to_string())).await
}

/// Records of events.
fn records(batch: &Value) -> Value {
    batch.as_array().unwrap().iter().map(|event| json!({"body": event.to_string()})).collect()
}

/// The sequence numbers of the events in records.
fn seq_nums(records: &Value) -> Vec<i64> {
    let event = |record: &Value| serde_json::from_str::<Value>(record["body"].as_str().unwrap()).unwrap();
    records.as_array().unwrap().iter().map(|record| event(record)["seqNum"].as_i64().unwrap()).collect()
}

fn of_stream(messages: &[Message]) -> Vec<i64> {
    let batches = messages.iter().filter(|message| message.event == "batch");
    batches.flat_map(|batch| seq_nums(&batch.json()["records"])).collect()
}

async fn stream(sidecar: &Sidecar, path: &str, last: Option<&str>) -> Messages {
    let mut request = request(sidecar, Method::GET, path);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    Messages::of(request).await
}

async fn push(database: &Database, store: &str, batch: Value) {
    database.admin().await.execute("select livestore.push($1, $2)", &[&store, &batch]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn livestore_syncs_through_a_server_as_its_guide_shows_it() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let proxy = Node::s2_proxy();
    let listening = proxy.call("listen", json!({"s2": format!("{}/v1", sidecar.http_url())})).await.unwrap();
    let endpoint = listening["url"].as_str().unwrap();
    let node = Node::sync_backend();
    let client = node.open_with("s2", endpoint, "todo-app", json!({"options": {"endpoint": endpoint}})).await;
    client.connect().await;
    let mut live = client.live(None).await;
    assert!(live.page().await.is_empty());
    client.push(chain(0, 2)).await.unwrap();
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
    let other = node.open("cf-ws", &sidecar.url(), "todo-app").await;
    other.push(chain(2, 1500)).await.unwrap();
    assert_eq!(numbers(&live.events(1500).await), (3..=1502).collect::<Vec<_>>());
    assert_eq!(numbers(&client.pull(None).await.unwrap()), up_to(1502));
    client.push(chain(1502, 2500)).await.unwrap();
    assert_eq!(numbers(&live.events(2500).await), (1503..=4002).collect::<Vec<_>>());
    let error = client.push(json!([event(7, "other", json!({}))])).await.unwrap_err();
    assert_eq!(error["_tag"], "UnknownError");
    let requests = proxy.call("requests", json!({})).await.unwrap();
    let statuses: Vec<_> = requests.as_array().unwrap().iter().map(|request| request["status"].clone()).collect();
    assert!(statuses.iter().all(|status| *status == 200 || *status == 412), "{requests}");

    // The store of another id under the name that the helpers make of it, also if it begins while somebody waits.
    let odd = node.open_with("s2", endpoint, "odd id/ä", json!({"options": {"endpoint": endpoint}})).await;
    let mut live = odd.live(None).await;
    assert!(live.page().await.is_empty());
    push(&database, "odd id/ä", chain(0, 2)).await;
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
    odd.push(chain(2, 1)).await.unwrap();
    assert_eq!(numbers(&live.events(1).await), [3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_client_behind_such_a_server_shares_its_table_with_one_of_sync_cf() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let proxy = Node::s2_proxy();
    let listening = proxy.call("listen", json!({"s2": format!("{}/v1", sidecar.http_url())})).await.unwrap();
    let (a, b) =
        tokio::join!(Device::open_s2("a", listening["url"].as_str().unwrap()), Device::open("b", sidecar.port()));
    let mut ids = Vec::new();
    for (id, device) in [("1", &a), ("2", &b), ("3", &a), ("4", &b)] {
        device.create(id).await;
        ids.push(id);
        tokio::join!(a.settles(&ids), b.settles(&ids));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_appended_where_they_say_and_nowhere_else() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let path = "/streams/s/records";
    let append = async |batch: &Value, further: Value| {
        let mut body = json!({"records": records(batch)});
        body.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
        post(&sidecar, path, body).await
    };
    let (status, first) = append(&chain(0, 3), json!({"match_seq_num": 0})).await;
    assert_eq!(status, 200, "{first}");
    let position = |name: &str| first[name]["seq_num"].as_i64().unwrap();
    assert_eq!((position("start"), position("end"), position("tail")), (0, 3, 3));
    assert!(first["end"]["timestamp"].as_i64().unwrap() > 1_700_000_000_000);
    assert_eq!(append(&chain(3, 2), json!({})).await.0, 200, "the events themselves say what they follow");
    let (status, repeated) = append(&chain(1, 2), json!({"match_seq_num": 1})).await;
    assert_eq!(status, 200, "a repeat is accepted");
    let positions = ["start", "end", "tail"].map(|name| repeated[name]["seq_num"].as_i64().unwrap());
    assert_eq!(positions, [1, 3, 5]);
    let behind = json!([event(3, "other", json!({}))]);
    for further in [json!({}), json!({"match_seq_num": 3}), json!({"match_seq_num": 5})] {
        assert_eq!(append(&behind, further.clone()).await, (412, json!({"seq_num_mismatch": 5})), "{further}");
    }
    assert_eq!(append(&chain(5, 1), json!({"match_seq_num": 4})).await.0, 412);
    assert_eq!(append(&chain(5, 1), json!({"fencing_token": "t"})).await, (412, json!({"fencing_token_mismatch": ""})));
    let gap = json!([event(5, "e", json!({})), event(9, "e", json!({}))]);
    for (body, status) in [
        (json!({"records": records(&gap)}), 422),
        (json!({"records": []}), 422),
        (json!({"records": [{"body": "no event"}]}), 422),
        (json!({"records": [{"body": "{}"}]}), 422),
        (json!({"records": [{}]}), 422),
        (json!({}), 422),
    ] {
        let (answered, error) = post(&sidecar, path, body.clone()).await;
        assert_eq!((answered, &error["code"]), (status, &json!("invalid")), "{body}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    let base64 = request(&sidecar, Method::POST, path).header("s2-format", "base64").body("{}");
    assert_eq!(answer(base64).await.0, 422);
    let head: i64 = database.admin().await.query_one("select livestore.head('s')", &[]).await.unwrap().get(0);
    assert_eq!(head, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_read_from_every_start_and_within_every_limit() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    push(&database, "s", chain(0, 1500)).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    push(&database, "s", chain(1500, 10)).await;
    let path = "/streams/s/records";
    let (_, tail) = get(&sidecar, "/streams/s/records/tail").await;
    assert_eq!(tail["tail"]["seq_num"], 1510);
    let late = tail["tail"]["timestamp"].as_i64().unwrap();
    let later = format!("timestamp={late}");
    let until = format!("seq_num=1495&until={late}");
    for (params, expected) in [
        ("seq_num=0", up_to(1000)),
        ("seq_num=0&count=3", up_to(3)),
        ("seq_num=1508", vec![1509, 1510]),
        ("tail_offset=2", vec![1509, 1510]),
        ("tail_offset=5000&count=1", vec![1]),
        ("seq_num=0&bytes=300", vec![1, 2]),
        (&*later, (1501..=1510).collect()),
        ("timestamp=0&count=2", vec![1, 2]),
        (&*until, (1496..=1500).collect()),
        ("seq_num=0&count=0", vec![]),
        ("seq_num=0&bytes=10", vec![]),
        ("seq_num=1509&count=100", vec![1510]),
    ] {
        let (status, body) = get(&sidecar, &format!("{path}?{params}")).await;
        assert_eq!((status, seq_nums(&body["records"])), (200, expected.clone()), "{params}");
        if expected.len() < 1000 {
            // With a limit it does not wait for more.
            let wait = if params.contains("count") || params.contains("until") { "" } else { "&wait=0" };
            let messages = stream(&sidecar, &format!("{path}?{params}{wait}"), None).await.rest().await;
            assert_eq!(of_stream(&messages), expected, "{params}");
            assert_eq!(messages.last().unwrap().data, "[DONE]", "{params}");
        }
    }
    let (_, body) = get(&sidecar, &format!("{path}?seq_num=6&count=1")).await;
    let record = &body["records"][0];
    assert_eq!(
        (&record["seq_num"], &record["body"]),
        (
            &json!(6),
            &json!(
                r#"{"name":"todoCreated","args":{"id":7},"seqNum":7,"parentSeqNum":6,"clientId":"client","sessionId":"session"}"#
            )
        )
    );

    for params in
        ["seq_num=1510", "seq_num=2000", "", "tail_offset=0", "seq_num=2000&clamp=true", "timestamp=99999999999999"]
    {
        let (status, body) = get(&sidecar, &format!("{path}?{params}")).await;
        assert_eq!((status, &body), (416, &tail), "{params}");
    }
    assert_eq!(get(&sidecar, "/streams/none/records?seq_num=0").await.0, 416);
    let ahead = stream(&sidecar, &format!("{path}?seq_num=2000"), None).await;
    assert_eq!(ahead.response.status(), 416);
    let clamped = stream(&sidecar, &format!("{path}?seq_num=2000&clamp=true&wait=0"), None).await.rest().await;
    assert_eq!((of_stream(&clamped), &*clamped.last().unwrap().data), (vec![], "[DONE]"));
    for params in ["seq_num=-1", "seq_num=x", "seq_num=1&timestamp=1", "count=-1", "clamp=maybe"] {
        let (status, body) = get(&sidecar, &format!("{path}?{params}")).await;
        assert_eq!((status, &body["code"]), (422, &json!("invalid")), "{params}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_and_resumes() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    push(&database, "s", chain(0, 3)).await;
    let path = "/streams/s/records";
    let since = Instant::now();
    assert_eq!(get(&sidecar, &format!("{path}?seq_num=3&wait=2")).await.0, 416);
    assert!(since.elapsed() >= Duration::from_secs(2));
    let late = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        push(&database, "s", chain(3, 1)).await;
    };
    let target = format!("{path}?seq_num=3&wait=60");
    let since = Instant::now();
    let ((status, body), ()) = tokio::join!(get(&sidecar, &target), late);
    assert_eq!((status, seq_nums(&body["records"])), (200, vec![4]));
    assert!(since.elapsed() < Duration::from_secs(30));

    // A stream that is wanted whole goes on, and one that broke off goes on after the last record that it brought.
    let mut live = stream(&sidecar, &format!("{path}?seq_num=2"), None).await;
    let batch = live.next().await.unwrap();
    assert_eq!(of_stream(std::slice::from_ref(&batch)), [3, 4]);
    let id = batch.id.clone().unwrap();
    assert!(id.starts_with("3,2,"), "{id}");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    push(&database, "s", chain(4, 1)).await;
    assert_eq!(of_stream(&[live.next().await.unwrap()]), [5]);
    drop(live);
    push(&database, "s", chain(5, 3)).await;
    let resumed = stream(&sidecar, &format!("{path}?seq_num=2&count=3"), Some(&id)).await.rest().await;
    assert_eq!(of_stream(&resumed), [5], "of three records it had two");
    assert!(resumed[0].id.as_ref().unwrap().starts_with("4,3,"), "{resumed:?}");
    let used_up = stream(&sidecar, &format!("{path}?seq_num=2&count=2&wait=60"), Some(&id)).await.rest().await;
    assert_eq!(used_up.iter().map(|message| &*message.data).collect::<Vec<_>>(), ["[DONE]"]);
    let waited = stream(&sidecar, &format!("{path}?seq_num=8&wait=1"), None).await.rest().await;
    assert_eq!(waited.last().unwrap().data, "[DONE]");
    let mut patient = stream(&sidecar, &format!("{path}?seq_num=7&wait={}", u64::MAX), None).await;
    assert_eq!(of_stream(&[patient.next().await.unwrap()]), [8]);
    drop(patient);
    let waiting = format!("{path}?seq_num=8&wait=60");
    let (ended, (status, _)) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            sidecar.signal("TERM");
            Instant::now()
        },
        get(&sidecar, &waiting)
    );
    assert_eq!(status, 416, "a shutdown ends what waits");
    assert!(ended.elapsed() < Duration::from_secs(8), "{:?}", ended.elapsed());
    let sidecar = Sidecar::on(&database).await;
    let wrong = stream(&sidecar, &format!("{path}?seq_num=0"), Some("garbage")).await;
    assert_eq!(wrong.response.status(), 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_larger_than_an_answer_is_one_by_itself() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let blobs: Value = (0..3).map(|parent| event(parent, "e", json!("x".repeat(2 << 20)))).collect();
    push(&database, "s", blobs).await;
    for seq_num in 0..3 {
        let (status, body) = get(&sidecar, &format!("/streams/s/records?seq_num={seq_num}")).await;
        assert_eq!((status, seq_nums(&body["records"])), (200, vec![seq_num + 1]));
    }
    let (status, body) = get(&sidecar, "/streams/s/records?seq_num=0&bytes=1000000").await;
    assert_eq!((status, seq_nums(&body["records"])), (200, vec![]), "it is more than was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_a_basin_or_stream_tells_nothing_of_others() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    push(&database, "there", chain(0, 1)).await;
    for user in ["ann", "bob"] {
        for (path, body) in [
            ("/basins", json!({"basin": "my-basin"})),
            ("/streams", json!({"stream": "new"})),
            ("/streams", json!({"stream": "there"})),
        ] {
            let creating = request(&sidecar, Method::POST, path).bearer_auth(token(user)).body(body.to_string());
            assert_eq!(answer(creating).await.0, 201, "{user} {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn basins_and_streams_are_names() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let (status, basin) = post(&sidecar, "/basins", json!({"basin": "my-basin"})).await;
    assert_eq!((status, basin), (201, json!({"name": "my-basin", "scope": "aws:us-east-1", "state": "active"})));
    let (status, error) = post(&sidecar, "/basins", json!({"basin": "my-basin"})).await;
    assert_eq!((status, &error["code"]), (409, &json!("resource_already_exists")));
    assert_eq!(post(&sidecar, "/streams", json!({"stream": "new"})).await.0, 201);
    assert_eq!(post(&sidecar, "/streams", json!({"stream": "new"})).await.0, 409);
    for (path, body) in [("/basins", json!({})), ("/basins", json!({"basin": ""})), ("/streams", json!({"stream": ""}))]
    {
        assert_eq!(post(&sidecar, path, body).await.0, 422);
    }
    for store in ["a b", "b", "c/d", "e"] {
        push(&database, store, chain(0, 1)).await;
    }
    assert_eq!(post(&sidecar, "/streams", json!({"stream": "e"})).await.0, 409, "a store is there");
    let names = async |params: &str| {
        let (status, body) = get(&sidecar, &format!("/streams?{params}")).await;
        assert_eq!(status, 200);
        let names: Vec<_> = body["streams"]
            .as_array()
            .unwrap()
            .iter()
            .map(|stream| stream["name"].as_str().unwrap().to_string())
            .collect();
        (names.join(" "), body["has_more"].as_bool().unwrap())
    };
    assert_eq!(names("").await, ("a-b b c-d e".into(), false));
    assert_eq!(names("limit=2").await, ("a-b b".into(), true));
    assert_eq!(names("start_after=b&limit=2").await, ("c-d e".into(), false));
    assert_eq!(names("prefix=c").await, ("c-d".into(), false));

    // By name, by id, and by neither.
    let read = async |stream: &str, params: &str| {
        let (status, body) = get(&sidecar, &format!("/streams/{stream}/records?seq_num=0{params}")).await;
        (status, body.get("records").map(seq_nums).unwrap_or_default())
    };
    assert_eq!(read("a-b", "").await, (200, vec![1]));
    assert_eq!(read("a%20b", "").await, (200, vec![1]));
    push(&database, "a/b", chain(0, 2)).await;
    livestore_tests::eventually("two stores have the name", || async { read("a-b", "").await.0 == 409 }).await;
    assert_eq!(read("a-b", "&store_id=a/b").await, (200, vec![1, 2]));
    assert_eq!(read("a%2Fb", "").await, (200, vec![1, 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_reads_appends_and_lists_nothing() {
    let database = Database::new().await;
    let no = "create function no(text, text) returns boolean language sql as 'select false'";
    database.everywhere(no).await;
    push(&database, "s", chain(0, 1)).await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--authorize-function", "public.no"]).ready().await;
    let append = json!({"records": records(&chain(1, 1))});
    for (status, error) in [
        get(&sidecar, "/streams").await,
        get(&sidecar, "/streams/s/records?seq_num=0").await,
        get(&sidecar, "/streams/s/records/tail").await,
        post(&sidecar, "/streams/s/records", append.clone()).await,
        post(&sidecar, "/streams/s/records", json!({"records": records(&chain(0, 1)), "match_seq_num": 5})).await,
    ] {
        assert_eq!((status, &error["code"]), (403, &json!("permission_denied")), "{error}");
    }
    let streamed = stream(&sidecar, "/streams/s/records?seq_num=0", None).await;
    assert_eq!(streamed.response.status(), 403);
    let streamed = streamed.rest().await;
    assert_eq!((&*streamed[0].event, &*streamed[0].data), ("error", "not allowed to connect to this store"));
    assert_eq!(post(&sidecar, "/streams", json!({"stream": "s"})).await.0, 201, "nor whether there is one");
    // The client behind a server of the guide stops.
    let proxy = Node::s2_proxy();
    let endpoint =
        proxy.call("listen", json!({"s2": format!("{}/v1", sidecar.http_url())})).await.unwrap()["url"].clone();
    let options = json!({"options": {"endpoint": endpoint}});
    let client = Node::sync_backend().open_with("s2", &sidecar.url(), "s", options).await;
    let end = client.live(None).await.next().await;
    assert_eq!(end["event"], "fail", "{end}");
    let asked = proxy.call("requests", json!({})).await.unwrap().as_array().unwrap().len();
    assert!(asked <= 3, "{asked}");
    let off = Start::new(database.url("sidecar")).arguments(&["--dialects", "s2"]).ready().await;
    assert_eq!(get(&off, "/streams").await.0, 404);
    assert_eq!(post(&off, "/streams/s/records", append).await.0, 404);
}
