//! The peer relay when sidecars, Postgres or the way between them fail, and what is left of its messages: nothing.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::process::Command;

use livestore_tests::breaker::Breaker;
use livestore_tests::cluster::Database;
use livestore_tests::eventually;
use livestore_tests::relay::{Peer, event, events, url, url_of};
use livestore_tests::rpc::Received;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::WITH_SECRET;
use serde_json::json;

async fn count(database: &Database, sql: &str) -> i64 {
    database.admin_of_relay().await.query_one(sql, &[]).await.unwrap().get(0)
}

/// No parcel is in the table any more, or in its file.
async fn parcels_are_gone(database: &Database) {
    let size = "select pg_relation_size('livestore.relay_parcels')";
    eventually("the file of the parcels is empty", || async { count(database, size).await == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_a_sidecar_that_is_killed_disappear() {
    let database = Database::new().await;
    let [near, far] = [Sidecar::on(&database).await, Sidecar::on(&database).await];
    let [mut a, mut c] = Peer::join_all(&url(&near), ["a", "c"]).await;
    let _b = Peer::join(&url(&far), "b").await;
    a.sees(&["b", "c"]).await;
    far.kill();
    a.push_to(&mut [&mut c], json!([event("a", 1, json!("x".repeat(50_000)))])).await;
    a.sees(&["c"]).await;
    assert_eq!(c.online().await, ["a"]);
    parcels_are_gone(&database).await;
    a.push_to(&mut [&mut c], events("a", 2..3)).await;

    let far = Sidecar::on(&database).await;
    let mut b = Peer::join(&url(&far), "b").await;
    a.sees(&["b", "c"]).await;
    a.push_to(&mut [&mut b, &mut c], events("a", 3..4)).await;
    b.push_to(&mut [&mut a, &mut c], events("b", 1..2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_ends_says_so_to_its_devices_and_to_the_other_sidecars() {
    let database = Database::new().await;
    let [near, far] = [Sidecar::on(&database).await, Sidecar::on(&database).await];
    let mut a = Peer::join(&url(&near), "a").await;
    let mut b = Peer::join(&url(&far), "b").await;
    a.sees(&["b"]).await;
    let ended = tokio::spawn(far.terminate());
    assert_eq!(b.closed().await, Received::Close(1012));
    assert!(ended.await.unwrap().success());
    assert_eq!(count(&database, "select count(*) from livestore.relay_sidecars").await, 1);
    assert_eq!(count(&database, "select count(*) from livestore.relay_devices").await, 1);
    a.sees(&[]).await;
    let mut b = Peer::join(&url(&near), "b").await;
    b.push_to(&mut [&mut a], events("b", 1..2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_on_one_sidecar_do_not_touch_the_database() {
    let database = Database::new().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    let sidecar = Start::new(database.url_at("sidecar", breaker.port())).ready().await;
    let [mut a, mut b, mut c] = Peer::join_all(&url(&sidecar), ["a", "b", "c"]).await;
    breaker.stall();
    for size in [1, 50_000] {
        a.push_to(&mut [&mut b, &mut c], json!([event("a", 1, json!("x".repeat(size)))])).await;
        let asked = b.ask("r").await;
        assert_eq!((a.next_text().await, c.next_text().await), (asked.clone(), asked));
        let answer = c.respond("r", json!([event("c", 1, json!("x".repeat(size)))]), true).await;
        assert!(b.next_text().await == answer);
    }
    assert_eq!(a.online().await, ["b", "c"]);
    breaker.mend();
}

/// Those who may have missed something are sent away, to come back and ask for it; nobody else is.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_cut_off_serves_its_own_devices_and_is_one_with_the_others_again_later() {
    let database = Database::new().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    let start = |url: String| Start::new(url).arguments(&WITH_SECRET).ready();
    let near = start(database.url_at("sidecar", breaker.port())).await;
    let far = start(database.url("sidecar")).await;
    let [mut phone, mut desk] = Peer::join_all(&url_of(&near, "at home"), ["phone", "desk"]).await;
    let mut elsewhere = Peer::join(&url_of(&far, "elsewhere"), "phone").await;
    let (here, there) = (url_of(&near, "shared"), url_of(&far, "shared"));
    let [mut a, mut b] = Peer::join_all(&here, ["a", "b"]).await;
    let mut c = Peer::join(&there, "c").await;
    a.sees(&["b", "c"]).await;

    breaker.cut();
    eventually("it notices", || async { near.get("/readyz").await.0 == 503 }).await;
    for number in 0..10 {
        phone.push_to(&mut [&mut desk], events("phone", number..number + 1)).await;
    }
    let sent = a.push(events("a", 1..2)).await;
    assert_eq!(b.next_text().await, sent);
    let answer = a.next().await;
    assert!(answer["type"] == "ack" || answer["code"] == "unavailable", "{answer}");

    breaker.mend();
    // Devices that were cut off, and those that may have missed messages from them.
    for device in [&mut phone, &mut desk, &mut a, &mut b, &mut c] {
        assert_eq!(device.closed().await, Received::Close(1012));
    }
    assert_eq!(elsewhere.online().await.len(), 0);
    let [mut a, mut b] = Peer::join_all(&here, ["a", "b"]).await;
    let mut c = Peer::join(&there, "c").await;
    assert_eq!(c.online().await, ["a", "b"]);
    a.sees(&["b", "c"]).await;
    a.push_to(&mut [&mut b, &mut c], json!([event("a", 2, json!("x".repeat(50_000)))])).await;
    c.push_to(&mut [&mut a, &mut b], events("c", 1..2)).await;
    for device in [&mut a, &mut b, &mut c] {
        assert_eq!(device.online().await.len(), 2);
    }
}

/// Two devices connect, find each other and push to each other.
async fn exchange(near: String, far: String) {
    let (mut a, mut b) = (Peer::join(&near, "a").await, Peer::join(&far, "b").await);
    assert_eq!(b.online().await, ["a"]);
    a.sees(&["b"]).await;
    a.push_to(&mut [&mut b], events("a", 1..2)).await;
    b.push_to(&mut [&mut a], json!([event("b", 1, json!("x".repeat(50_000)))])).await;
    assert_eq!((a.online().await, b.online().await), (vec!["b".to_string()], vec!["a".to_string()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_postgres_without_mercy_is_survived() {
    let database = Database::alone().await;
    let [near, far] = [Sidecar::on(&database).await, Sidecar::on(&database).await];
    let urls = [url(&near), url(&far)];
    for _ in 0..2 {
        let (mut a, mut b) = (Peer::join(&urls[0], "a").await, Peer::join(&urls[1], "b").await);
        a.sees(&["b"]).await;
        let cluster = database.cluster();
        tokio::task::spawn_blocking(|| cluster.pg_ctl(&["restart", "-m", "immediate"])).await.unwrap();
        assert_eq!(a.closed().await, Received::Close(1012));
        assert_eq!(b.closed().await, Received::Close(1012));
        // The sidecars come back at different times, and each sends devices away for it.
        let found = || tokio::spawn(exchange(urls[0].clone(), urls[1].clone()));
        eventually("they find each other again", || async { found().await.is_ok() }).await;
        for sidecar in [&near, &far] {
            eventually("it is ready", || async { sidecar.get("/readyz").await.0 == 200 }).await;
        }
    }
    database.stop();
}

/// Text that neither occurs anywhere by chance nor can be compressed.
fn noise(length: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = RandomState::new().build_hasher().finish() | 1;
    let letter = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(LETTERS[usize::from(state.to_be_bytes()[0] % 64)])
    };
    (0..length).map(letter).collect()
}

/// The files of a cluster that is stopped in which a text is, apart from the queue of notifications.
fn files_with(database: &Database, text: &str) -> Vec<String> {
    let mut grep = Command::new("grep");
    grep.args(["-rlaF", "--exclude-dir=pg_notify", "-e", text]).arg(database.cluster().folder()).env("LC_ALL", "C");
    let output = grep.output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_message_is_left_in_the_database_or_in_a_log() {
    let database = Database::alone().await;
    let arguments = ["--log", "info,livestore_sidecar=trace"];
    let start = || Start::new(database.url("sidecar")).arguments(&arguments).ready();
    let [near, far] = [start().await, start().await];
    let (mut a, mut b) = (Peer::join(&url(&near), "a").await, Peer::join(&url(&far), "b").await);
    a.sees(&["b"]).await;
    let mut markers = Vec::new();
    let mut secret = |length| {
        let marker = noise(24);
        markers.push(marker.clone());
        marker + &noise(length)
    };
    for length in [10, 50_000] {
        let mut pushed = event("a", 1, json!(secret(length)));
        pushed["eventName"] = json!(secret(0));
        a.push_to(&mut [&mut b], json!([pushed])).await;
        let request_id = secret(0);
        b.ask(&request_id).await;
        a.next_of("peer_pull").await;
        let answer = a.respond(&request_id, json!([event("a", 1, json!(secret(length)))]), false).await;
        assert!(b.next_text().await == answer);
        a.respond("nobody asked", json!([secret(length)]), false).await;
        for (kind, payload) in [
            ("push", json!({"events": secret(length)})),
            ("push", json!({"events": [{"eventName": [secret(length)]}]})),
            ("pull", json!({"sinceTimestamp": secret(length)})),
            ("hello", json!({"text": secret(length)})),
        ] {
            a.send(kind, payload).await;
            a.next_of("error").await;
        }
        a.send_text(&format!("{{\"{}", secret(length))).await;
        a.next_of("error").await;
    }
    let admin = database.admin().await;
    let stored = noise(24);
    let commit = "select livestore.commit('s', 'stored', json_build_object('text', $1::text))";
    admin.execute(commit, &[&stored]).await.unwrap();
    parcels_are_gone(&database).await;
    admin.execute("checkpoint", &[]).await.unwrap();
    let cluster = database.cluster();
    tokio::task::spawn_blocking(|| cluster.pg_ctl(&["stop", "-m", "fast"])).await.unwrap();

    assert!(!files_with(&database, &stored).is_empty(), "what is stored is found");
    let logs = [near.log(), far.log()];
    for marker in markers {
        assert_eq!(files_with(&database, &marker), [""; 0]);
        assert!(!logs.iter().any(|log| log.contains(&marker)), "{}", logs.join("\n"));
    }
}
