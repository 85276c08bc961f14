//! The reads of the inspector, and its changes of the log that a page shows.

use crate::support::{all, one, one_with, rejection, run};
use livestore_tests::cluster::Database;
use tokio_postgres::Client;

/// The numbers that a search finds in one call, and the number of the event at which it stopped.
async fn look(client: &Client, store: &str, begin_at: i64, is_backward: bool, seconds: f64) -> (Vec<i64>, Option<i64>) {
    let sql =
        "select seq_num, name from livestore.inspect_events($1, $2, $3, 'rare', 'c', null, null, 300, 300, 200, $4)";
    let rows = client.query(sql, &[&store, &begin_at, &is_backward, &seconds]).await.unwrap();
    let (found, stopped): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.get::<_, Option<&str>>(1).is_some());
    assert!(stopped.len() <= 1, "{}", stopped.len());
    (found.iter().map(|row| row.get(0)).collect(), stopped.first().map(|row| row.get(0)))
}

/// Postgres cancelled it after 5 seconds, with whatever was found, and there was no way on.
#[tokio::test]
async fn a_search_ends_in_time_and_goes_on_where_it_has_stopped() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "select livestore.create_store('own', true);
         select livestore.push(store, (select json_agg(json_build_object('name', case when g in (7, 2000) then 'rare' else 'usual' end,
             'seqNum', g, 'parentSeqNum', g - 1, 'clientId', 'c', 'sessionId', 's') order by g) from generate_series(1, 2345) g))
         from unnest(array['own', 's']) store",
    )
    .await;
    let client = database.connect("reader").await;
    for store in ["s", "own"] {
        assert_eq!(look(&client, store, i64::MAX, true, 60.0).await, (vec![2000, 7], None));
        assert_eq!(look(&client, store, 0, false, 60.0).await, (vec![7, 2000], None));
        for (is_backward, expected) in [(true, [2000, 7]), (false, [7, 2000])] {
            let (mut all, mut calls) = (Vec::new(), 0);
            let mut begin_at = Some(if is_backward { i64::MAX } else { 0 });
            while let Some(at) = begin_at {
                let (found, stopped_at) = look(&client, store, at, is_backward, 0.0).await;
                all.extend(found);
                (begin_at, calls) = (stopped_at, calls + 1);
            }
            assert_eq!(all, expected, "{store}");
            // Of a hundred events each, and one that ends with each event that was found.
            assert!((20..30).contains(&calls), "{calls}");
        }
    }
    assert_eq!(look(&client, "missing", 0, false, 60.0).await, (vec![], None));
}

#[tokio::test]
async fn the_beginnings_of_long_texts_are_shown() {
    let database = Database::new().await;
    run(
        &database.admin().await,
        "select livestore.commit('s', repeat('ä', 400), to_json(repeat('ö', 500)), repeat('c', 400), repeat('d', 400)),
             livestore.commit('s', 'e', null::json)",
    )
    .await;
    let client = database.connect("reader").await;
    let sizes = "select format('%s %s %s %s %s', char_length(e.name), char_length(e.args), e.has_all_args, char_length(e.client_id), char_length(e.session_id))
         from livestore.inspect_events('s', 0, false, null, null, null, null, 300, 501, 200, 60) e";
    assert_eq!(all::<String>(&client, sizes).await, ["300 501 f 300 300", "1  t 6 3"]);
}

#[tokio::test]
async fn a_log_is_locked_if_it_is_still_the_same() {
    let database = Database::new().await;
    let client = database.connect("admin").await;
    run(&client, "select livestore.commit('s', 'e')").await;
    let life: String = one(&client, "select livestore.backend_id('s')").await;
    let lock = format!("select livestore.lock_log('s', '{life}')");
    run(&client, &format!("begin; {lock}")).await;
    let other = database.connect("admin").await;
    run(&other, "set lock_timeout = '100ms'").await;
    assert_eq!(rejection(other.batch_execute("select livestore.reset_store('s')").await).sqlstate, "55P03");
    run(&client, "commit").await;
    run(&other, "select livestore.reset_store('s')").await;
    let refused = rejection(client.batch_execute(&lock).await);
    assert_eq!((refused.sqlstate.as_str(), refused.json()["received"].as_str()), ("LS002", Some(&*life)));
    assert_eq!(rejection(client.query("select livestore.lock_log('s', null)", &[]).await).sqlstate, "LS002");
    run(&other, "select livestore.drop_store('s')").await;
    assert_eq!(rejection(client.batch_execute(&lock).await).sqlstate, "LS004");
    assert!(!one_with::<bool>(&client, "select exists (select from livestore.inspect_store($1))", &[&"s"]).await);
}
