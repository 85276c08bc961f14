//! The peer relay with tokens: a token decides which devices are let in and for how long, and users never hear of each other.

use std::collections::HashMap;

use futures_util::{StreamExt, stream};
use livestore_tests::cluster::Database;
use livestore_tests::eventually;
use livestore_tests::relay::{Peer, event, events, url, url_of};
use livestore_tests::rpc::Received;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{SECRET, Signer, WITH_SECRET, now, token};
use serde_json::{Value, json};

async fn start(database: &Database, arguments: &[&str]) -> Sidecar {
    Start::new(database.url("sidecar")).arguments(&WITH_SECRET).arguments(arguments).ready().await
}

/// With these public keys, or this environment variable, in the place of a secret.
fn with_key(database: &Database) -> Start {
    Start::new(database.url("sidecar")).arguments(&["--auth", "jwt"])
}

/// The status of a connection with this token that is refused; `None` if it is not.
async fn refusal(sidecar: &Sidecar, token: &str) -> Option<u16> {
    refusal_with(&format!("{}?token={token}", url(sidecar)), &[]).await
}

async fn refusal_with(url: &str, headers: &[(&'static str, &str)]) -> Option<u16> {
    Peer::connect_with(url, headers, "a").await.err().map(|(status, _)| status)
}

/// The same token with an algorithm of none and no signature.
fn unsigned(token: &str) -> String {
    let claims = token.split('.').nth(1).unwrap();
    // {"alg":"none","typ":"JWT"}
    format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.")
}

/// Tokens that are refused, no matter which key signs them.
fn bad(signer: &Signer) -> Vec<(&'static str, String)> {
    let (good, later) = (signer.token("ann"), now() + 3600);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let eve = signer.token("eve");
    vec![
        ("none", String::new()),
        ("no token", "abc".into()),
        ("no signature", format!("{head}.")),
        ("the signature of another token", format!("{}.{signature}", eve.rsplit_once('.').unwrap().0)),
        ("no algorithm", unsigned(&good)),
        ("expired", signer.token_until("ann", now() - 3600)),
        ("no end", signer.sign(&json!({"sub": "ann"}))),
        ("an end that is no time", signer.sign(&json!({"sub": "ann", "exp": "tomorrow"}))),
        ("nobody", signer.sign(&json!({"exp": later}))),
        ("no name", signer.sign(&json!({"sub": "", "exp": later}))),
        ("no text as name", signer.sign(&json!({"sub": 7, "exp": later}))),
        ("another secret", Signer::secret("another secret of the tests, which is not it").token("ann")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_good_token_opens_a_connection() {
    let database = Database::new().await;
    let by_flag = start(&database, &[]).await;
    let by_environment = with_key(&database).environment("LIVESTORE_JWT_SECRET", SECRET).ready().await;
    let signer = Signer::secret(SECRET);
    for sidecar in [by_flag, by_environment] {
        assert_eq!(refusal_with(&url(&sidecar), &[]).await, Some(401), "no token");
        for (what, token) in bad(&signer) {
            assert_eq!(refusal(&sidecar, &token).await, Some(401), "{what}");
        }
        for signer in [Signer::rs256(), Signer::es256(), Signer::eddsa()] {
            assert_eq!(refusal(&sidecar, &signer.token("ann")).await, Some(401), "a key that nobody knows");
        }
        let [mut a, mut b] = Peer::join_all(&url_of(&sidecar, "ann"), ["a", "b"]).await;
        a.push_to(&mut [&mut b], events("a", 1..2)).await;
        assert!(!sidecar.log().contains(&signer.token("ann")[..40]), "what opens doors is not logged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn public_keys_of_three_kinds_are_taken_from_a_file_and_from_the_environment() {
    let database = Database::new().await;
    let (rs256, es256, eddsa) = (Signer::rs256(), Signer::es256(), Signer::eddsa());
    for (signer, other, stranger) in
        [(&rs256, &es256, Signer::rs256()), (&es256, &eddsa, Signer::es256()), (&eddsa, &rs256, Signer::eddsa())]
    {
        let file = signer.public_key().to_str().unwrap();
        let by_file = with_key(&database).arguments(&["--jwt-public-key", file]).ready().await;
        let by_flag = with_key(&database).arguments(&["--jwt-public-key", &signer.public_pem()]).ready().await;
        let by_environment = with_key(&database).environment("LIVESTORE_JWT_PUBLIC_KEY", &signer.public_pem());
        for sidecar in [by_file, by_flag, by_environment.ready().await] {
            for (what, token) in bad(signer) {
                assert_eq!(refusal(&sidecar, &token).await, Some(401), "{what}");
            }
            let public_key_as_secret = Signer::secret(&signer.public_pem()).token("ann");
            for token in [public_key_as_secret, other.token("ann"), stranger.token("ann"), token("ann")] {
                assert_eq!(refusal(&sidecar, &token).await, Some(401));
            }
            let url = format!("{}?token={}", url(&sidecar), signer.token("ann"));
            assert_eq!(Peer::join(&url, "a").await.online().await, [""; 0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_counts_only_if_it_comes_from_a_page_that_is_served() {
    let database = Database::new().await;
    let cookie = format!("a=1; auth_token={}; b=2", token("ann"));
    let other = format!("my_auth_token={}; auth_token=x", token("ann"));
    for (arguments, served, foreign) in [
        (&[][..], Some("http://localhost:5173"), "https://app.example"),
        (&["--cors-origins", "https://app.example"], Some("https://app.example"), "http://localhost:5173"),
        (&["--cors-origins", "*"], None, "http://localhost:5173"),
    ] {
        let sidecar = start(&database, arguments).await;
        let url = url(&sidecar);
        assert_eq!(refusal_with(&url, &[("cookie", &cookie)]).await, Some(401), "{arguments:?}: no page");
        let refused = refusal_with(&url, &[("cookie", &cookie), ("origin", foreign)]).await;
        assert!(matches!(refused, Some(401 | 403)), "{arguments:?}: {refused:?}");
        if let Some(served) = served {
            assert_eq!(refusal_with(&url, &[("cookie", &other), ("origin", served)]).await, Some(401));
            let headers = [("cookie", &*cookie), ("origin", served)];
            let mut device = Peer::connect_with(&url, &headers, "a").await.ok().unwrap();
            let mut other = Peer::join(&url_of(&sidecar, "ann"), "b").await;
            device.push_to(&mut [&mut other], events("a", 1..2)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_token() {
    let database = Database::new().await;
    let sidecar = start(&database, &[]).await;
    let ends = now() + 10;
    let short = format!("{}?token={}", url(&sidecar), Signer::secret(SECRET).token_until("ann", ends));
    let [mut a, mut silent] = [Peer::join(&short, "a").await, Peer::connect(&short, "silent").await];
    let mut b = Peer::join(&url_of(&sidecar, "ann"), "b").await;
    a.push_to(&mut [&mut b], events("a", 1..2)).await;
    assert_eq!(a.closed().await, Received::Close(4401));
    assert!(now() >= ends, "not before");
    assert_eq!(silent.closed().await, Received::Close(4401));
    b.sees(&[]).await;
    let mut again = Peer::join(&url_of(&sidecar, "ann"), "a").await;
    b.push_to(&mut [&mut again], events("b", 1..2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_never_hear_of_each_other() {
    for are_apart in [false, true] {
        let database = Database::new().await;
        let one = start(&database, &[]).await;
        let second = if are_apart { Some(start(&database, &[]).await) } else { None };
        let other = second.as_ref().unwrap_or(&one);
        let names = ["ann", "Ann", " ann", "ann'", "änn", "ann\\", "{ann}"];
        let mut users = Vec::new();
        for name in names {
            let mut phone = Peer::join(&url_of(&one, name), "phone").await;
            let desk = Peer::join(&url_of(other, name), "desk").await;
            phone.sees(&["desk"]).await;
            users.push((phone, desk));
        }
        for (phone, desk) in &mut users {
            phone.push_to(&mut [&mut *desk], events("phone", 1..2)).await;
            desk.push_to(&mut [phone], json!([event("desk", 1, json!("x".repeat(10_000)))])).await;
        }
        // All have asked the same before anybody answers, each with the same name for it.
        for (phone, desk) in &mut users {
            let asked = phone.ask("r").await;
            assert_eq!(desk.next_text().await, asked);
        }
        for (n, (phone, desk)) in (0..).zip(&mut users) {
            let answer = desk.respond("r", events("desk", n..n + 1), false).await;
            assert_eq!(phone.next_text().await, answer);
        }
        let (ann, others) = users.split_first_mut().unwrap();
        let asked = ann.0.ask("of ann").await;
        assert_eq!(ann.1.next_text().await, asked);
        for (phone, desk) in others {
            phone.respond("of ann", json!([]), false).await;
            desk.respond("of ann", json!([]), false).await;
        }
        for (phone, desk) in &mut users {
            assert_eq!(phone.online().await, ["desk"]);
            assert_eq!(desk.online().await, ["phone"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_floods_slows_down_nobody_else() {
    let database = Database::new().await;
    let sidecar = start(&database, &["--relay-messages-per-second", "10"]).await;
    let mut loud = Peer::join(&url_of(&sidecar, "loud"), "a").await;
    // Much more than fits into the patience of any test.
    let flood = tokio::spawn(async move {
        for number in 0..5000 {
            loud.push(events("a", number..number + 1)).await;
        }
        loop {
            loud.next_of("ack").await;
        }
    });
    let [mut a, mut b] = Peer::join_all(&url_of(&sidecar, "quiet"), ["a", "b"]).await;
    for number in 0..20 {
        a.push_to(&mut [&mut b], events("a", number..number + 1)).await;
    }
    assert!(!flood.is_finished());
    flood.abort();
}

/// As many as the limit of open files allows: up to two sockets each, here and in the sidecar.
fn many_users() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let limit: usize = limit.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX);
    (limit.saturating_sub(300) / 2).min(2000)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_users_have_a_relay_each() {
    let database = Database::new().await;
    let sidecar = start(&database, &[]).await;
    let users = many_users();
    let devices = (0..users).flat_map(|user| (0..=user % 2).map(move |device| (user, device)));
    let urls: Vec<_> = (0..users).map(|user| url_of(&sidecar, &format!("user {user}"))).collect();
    let joined = stream::iter(devices).map(async |(user, device)| {
        let peer = Peer::join(&urls[user], &format!("device {device}")).await;
        (user, peer)
    });
    let mut joined: Vec<_> = joined.buffered(50).collect().await;
    assert_eq!(joined.len(), users + users / 2);
    for (user, peer) in &mut joined {
        peer.push(json!([event(peer.client_id(), 1, json!({"user": *user}))])).await;
    }
    for (user, peer) in &mut joined {
        let has_other = *user % 2 == 1;
        let mut kinds = Vec::new();
        for _ in 0..=usize::from(has_other) {
            let message = peer.next().await;
            let told = message.pointer("/payload/events/0/data/user");
            assert!(told.is_none_or(|told| *told == json!(*user)), "user {user} was sent {message}");
            kinds.push(message["type"].as_str().unwrap().to_string());
        }
        kinds.sort();
        assert_eq!(kinds, ["ack", "push"][..=usize::from(has_other)]);
    }
    for (user, peer) in &mut joined {
        let other = if peer.client_id() == "device 0" { "device 1" } else { "device 0" };
        assert_eq!(peer.online().await, [other][..user.to_owned() % 2]);
    }
    drop(joined);
    eventually("all sockets are closed", || async { sidecar.sockets() < 100 }).await;
}

/// The numbers of the events that a device was sent, by sender.
type Heard = HashMap<String, Vec<i64>>;

/// Pushes, and reads until there is an ack for each push and everything of the others.
async fn exchange(mut device: Peer, pushes: i64, others: usize) -> (Peer, Heard) {
    for number in 0..pushes {
        device.push(events(device.client_id(), number..number + 1)).await;
    }
    let (mut heard, mut acks, mut messages) = (Heard::new(), 0, 0);
    while acks < pushes || messages < others * usize::try_from(pushes).unwrap() {
        let message = device.next().await;
        if message["type"] == "ack" {
            acks += 1;
            continue;
        }
        assert_eq!(message["type"], "push", "{message}");
        messages += 1;
        let number = message.pointer("/payload/events/0/eventNumber").and_then(Value::as_i64).unwrap();
        heard.entry(message["clientId"].as_str().unwrap().into()).or_default().push(number);
    }
    (device, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_push_of_200_devices_reaches_the_199_others_once_and_in_order() {
    const PUSHES: i64 = 3;
    let database = Database::new().await;
    let sidecars = [start(&database, &[]).await, start(&database, &[]).await];
    let urls = sidecars.each_ref().map(|sidecar| url_of(sidecar, "ann"));
    let names: Vec<_> = (100..300).map(|n| format!("device {n}")).collect();
    let joined = stream::iter(names.iter().enumerate()).map(async |(n, name)| Peer::join(&urls[n % 2], name).await);
    let mut devices: Vec<_> = joined.buffered(20).collect().await;
    for device in &mut devices {
        let me = device.client_id().to_string();
        device.sees(&names.iter().map(|name| &**name).filter(|name| *name != me).collect::<Vec<_>>()).await;
    }
    let exchanges: Vec<_> =
        devices.into_iter().map(|device| tokio::spawn(exchange(device, PUSHES, names.len() - 1))).collect();
    let mut done = Vec::new();
    for exchange in exchanges {
        done.push(exchange.await.unwrap());
    }
    for (device, heard) in &mut done {
        assert!(heard.values().all(|numbers| *numbers == (0..PUSHES).collect::<Vec<_>>()), "{heard:?}");
        assert_eq!(heard.len(), names.len() - 1);
        assert_eq!(device.online().await.len(), names.len() - 1, "and nothing comes twice");
    }
}
