//! Hooks: triggers on the event log that reject events, or carry them into tables of the application.

use crate::support::{
    Ears, Push, all, broken_chains, log, one, one_with, push, push_batch, rejection, run, stored, try_push_batch,
};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, up_to};
use serde_json::{Value, json};
use tokio_postgres::Client;

/// A batch of one event.
fn named(parent: i64, name: &str) -> Value {
    json!([event(parent, name, json!({}))])
}

/// Puts a hook on the shared log: a function with this body, in PL/pgSQL, and a trigger at this time.
async fn hook(admin: &Client, name: &str, time: &str, body: &str) {
    run(
        admin,
        &format!(
            "create function public.{name}() returns trigger language plpgsql as $hook$ begin {body} end $hook$;
             create trigger {name} {time} on livestore.eventlog_1 for each row execute function public.{name}()"
        ),
    )
    .await;
}

const REJECT_BAD: &str = "if new.name = 'bad' then
    raise exception 'not %', new.args using errcode = 'P0042', detail = 'the detail', hint = 'the hint';
end if;
return new;";

#[tokio::test]
async fn a_before_hook_rejects_a_push_in_its_own_words() {
    let database = Database::new().await;
    let admin = database.admin().await;
    hook(&admin, "reject", "before insert", REJECT_BAD).await;
    let client = database.connect("sidecar").await;
    push(&client, "s", named(0, "good")).await.unwrap();
    let before = stored(&admin).await;
    for (store, parent) in [("s", 1), ("new", 0)] {
        let batch = json!([event(parent, "good", json!({})), event(parent + 1, "bad", json!("this"))]);
        let rejection = rejection(push(&client, store, batch).await);
        assert_eq!((rejection.sqlstate.as_str(), rejection.message.as_str()), ("P0042", "not \"this\""));
        assert_eq!((rejection.detail.as_str(), rejection.hint.as_str()), ("the detail", "the hint"));
    }
    assert_eq!(rejection(client.execute("select livestore.commit('s', 'bad')", &[]).await).sqlstate, "P0042");
    assert_eq!(stored(&admin).await, before);
}

/// Postgres says that a row was inserted which a rule has put elsewhere.
#[tokio::test]
async fn a_rule_that_puts_events_elsewhere_is_refused() {
    let database = Database::new().await;
    let (admin, client) = (database.admin().await, database.connect("sidecar").await);
    run(
        &admin,
        "create table public.others (like livestore.eventlog_1); grant insert on public.others to public;
         select livestore.create_store('own', true)",
    )
    .await;
    let own: String = one(&admin, "select eventlog::text from livestore.stores where store_id = 'own'").await;
    for (store, table) in [("shared", "livestore.eventlog_1"), ("own", own.as_str())] {
        for (condition, does, sqlstate) in [
            ("", "do instead", Some("27000")),
            ("where new.name = 'bad'", "do instead", Some("27000")),
            ("where new.name = 'good'", "do instead nothing; --", Some("27000")),
            ("", "do also", None),
        ] {
            let rule = format!(
                "create or replace rule elsewhere as on insert to {table} {condition} {does} insert into public.others values (new.*)"
            );
            run(&admin, &rule).await;
            let head: i64 = one_with(&client, "select livestore.head($1)", &[&store]).await;
            for batch in [named(head, "bad"), chain(head, 3)] {
                let result = push(&client, store, batch).await;
                match sqlstate {
                    Some(sqlstate) => assert_eq!(rejection(result).sqlstate, sqlstate, "{rule}"),
                    None => drop(result.ok()),
                }
            }
        }
    }
    let heads = "select string_agg(store_id || ' ' || head, ', ' order by store_id) from livestore.stores";
    assert_eq!(one::<String>(&admin, heads).await, "own 1, shared 1");
    assert_eq!(one::<i64>(&admin, "select count(*) from livestore.events").await, 2);
}

#[tokio::test]
async fn push_batch_returns_the_words_of_the_hook() {
    let database = Database::new().await;
    hook(&database.admin().await, "reject", "before insert", REJECT_BAD).await;
    let client = database.connect("sidecar").await;
    let pushes = [Push::to("a", named(0, "good")), Push::to("b", named(0, "bad")), Push::to("c", named(0, "good"))];
    let outcomes = push_batch(&client, &pushes).await;
    assert_eq!(outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(), [Ok(1), Err("P0042"), Ok(1)]);
    let outcome = &outcomes[1];
    assert_eq!(outcome.message.as_deref(), Some("not {}"));
    assert_eq!((outcome.detail.as_deref(), outcome.hint.as_deref()), (Some("the detail"), Some("the hint")));
}

#[tokio::test]
async fn an_after_hook_materialises_events_in_the_same_transaction() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create table public.todos (id int primary key, xid xid8 default pg_current_xact_id());
         grant insert on public.todos to livestore_hooks",
    )
    .await;
    let body = "insert into public.todos (id) values ((new.args->>'id')::int); return null;";
    hook(&admin, "materialise", "after insert", body).await;
    let client = database.connect("sidecar").await;
    push(&client, "s", chain(0, 3)).await.unwrap();
    push(&client, "s", chain(0, 3)).await.expect("a repeat, which fires no hook");
    assert_eq!(all::<i32>(&admin, "select id from public.todos order by id").await, [1, 2, 3]);
    assert_eq!(one::<i64>(&admin, "select count(distinct xid) from public.todos").await, 1);

    run(&client, "begin").await;
    push(&client, "s", chain(3, 1)).await.unwrap();
    run(&client, "rollback").await;
    assert_eq!(one::<i64>(&admin, "select count(*) from public.todos").await, 3);

    // The key of the application refuses the second event 1.
    let before = stored(&admin).await;
    assert_eq!(rejection(push(&client, "other", chain(0, 1)).await).sqlstate, "23505");
    assert_eq!(stored(&admin).await, before, "what cannot be materialised is not in the log");
    let outcomes = push_batch(&client, &[Push::to("other", chain(0, 1)), Push::to("s", chain(3, 2))]).await;
    assert_eq!(outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(), [Err("23505"), Ok(5)]);
    assert_eq!(all::<i32>(&admin, "select id from public.todos order by id").await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_hook_must_not_change_or_skip_an_event() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(&admin, "select livestore.create_store('neighbour')").await;
    let mut accepted = Vec::new();
    for change in [
        "new.name := 'changed'; return new;",
        "new.args := '{\"changed\":true}'; return new;",
        "new.args := new.args::jsonb::json; return new;",
        "new.args := null; return new;",
        "new.\"seqNum\" := 1000; return new;",
        "new.\"parentSeqNum\" := 0; return new;",
        "new.\"clientId\" := 'changed'; return new;",
        "new.\"sessionId\" := 'changed'; return new;",
        "new.\"createdAt\" := '2000-01-01'; return new;",
        "new.store := (select id from livestore.stores where store_id = 'neighbour'); return new;",
        "return null;",
    ] {
        let body = format!("if new.name = 'bad' then {change} end if; return new;");
        hook(&admin, "change", "before insert", &body).await;
        push(&admin, change, chain(0, 2)).await.unwrap();
        let before = stored(&admin).await;
        let bad = event(2, "bad", json!("ARGS")).to_string().replace(r#""ARGS""#, r#"{"b":1, "a":2}"#);
        match push(&admin, change, format!("[{bad}]")).await {
            Ok(_) => accepted.push(change),
            rejected => {
                let rejection = rejection(rejected);
                assert_eq!(rejection.sqlstate, "27000", "{change}");
                assert!(!rejection.hint.is_empty(), "{change}");
                assert_eq!(stored(&admin).await, before, "{change}");
            }
        }
        run(&admin, "drop function public.change cascade").await;
    }
    assert_eq!(accepted, [""; 0], "these went unnoticed");
}

#[tokio::test]
async fn a_hook_that_lets_events_pass_as_they_are_changes_nothing() {
    let database = Database::new().await;
    hook(&database.admin().await, "pass", "before insert", "return new;").await;
    let client = database.connect("sidecar").await;
    let spelled = event(0, "e", json!("ARGS")).to_string().replace(r#""ARGS""#, r#"{"b":1.0, "a":"\ud800"}"#);
    push(&client, "s", format!("[{spelled}]")).await.unwrap();
    push(&client, "s", chain(1, 3)).await.unwrap();
    assert_eq!(log(&client, "s").await, up_to(4));
}

#[tokio::test]
async fn a_hook_can_commit_to_the_same_store() {
    for time in ["before insert", "after insert"] {
        let database = Database::new().await;
        let admin = database.admin().await;
        let body = "if new.name = 'ping' then
            perform livestore.commit((select store_id from livestore.stores where id = new.store), 'pong', to_json(new.\"seqNum\"));
        end if;
        return new;";
        hook(&admin, "pong", time, body).await;
        let client = database.connect("sidecar").await;
        let mut ears = Ears::on(&database).await;
        push(&client, "s", json!([event(0, "ping", json!({})), event(1, "e", json!({})), event(2, "ping", json!({}))]))
            .await
            .unwrap();
        let names = "select name || coalesce(args #>> '{}', '') from livestore.events order by seq_num";
        assert_eq!(all::<String>(&client, names).await, ["ping{}", "e{}", "ping{}", "pong1", "pong3"], "{time}");
        // A second push in the same call builds on the first, not on what the hook makes of it.
        let outcomes = push_batch(&client, &[Push::to("s", named(5, "ping")), Push::to("s", chain(6, 1))]).await;
        assert_eq!(outcomes.iter().map(|outcome| outcome.brief().is_ok()).collect::<Vec<_>>(), [true, true], "{time}");
        assert_eq!(log(&client, "s").await, up_to(8), "{time}");
        assert_eq!(broken_chains(&client).await, [""; 0], "{time}");
        assert_eq!(one::<i64>(&client, "select livestore.head('s')").await, 8);
        let highest = ears.heard().await.iter().map(|payload| payload["heads"]["s"].as_i64().unwrap()).max();
        assert_eq!(highest, Some(8), "{time}: listeners learn of the last event");
    }
}

#[tokio::test]
async fn a_hook_can_commit_to_another_store() {
    for time in ["before insert", "after insert"] {
        let database = Database::new().await;
        let admin = database.admin().await;
        let body =
            "if new.name <> 'audited' then perform livestore.commit('audit', 'audited', new.args); end if; return new;";
        hook(&admin, "audit", time, body).await;
        let client = database.connect("sidecar").await;
        let mut ears = Ears::on(&database).await;
        let outcomes = push_batch(&client, &[Push::to("a", chain(0, 2)), Push::to("b", chain(0, 1))]).await;
        assert_eq!([outcomes[0].brief(), outcomes[1].brief()], [Ok(2), Ok(1)], "{time}");
        assert_eq!(log(&client, "audit").await, up_to(3), "{time}");
        assert_eq!(broken_chains(&client).await, [""; 0], "{time}");
        let heads: Vec<_> =
            ears.heard().await.iter().filter_map(|payload| payload["heads"]["audit"].as_i64()).collect();
        assert_eq!(heads.last(), Some(&3), "{time}");
    }
}

/// A hook that rejects events named `bad`, but waits for the commit.
const REJECT_BAD_LATE: &str = "
    create function public.late() returns trigger language plpgsql as $$
    begin
        if new.name = 'bad' then raise exception 'too late' using errcode = 'P0042'; end if;
        return null;
    end $$;
    create constraint trigger late after insert on livestore.eventlog_1
        deferrable initially deferred for each row execute function public.late()";

#[tokio::test]
async fn a_hook_that_raises_at_commit_keeps_the_push_out_of_the_log() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(&admin, REJECT_BAD_LATE).await;
    let mut ears = Ears::on(&database).await;
    for own_table in [false, true] {
        run(&admin, &format!("select livestore.create_store('s', {own_table})")).await;
        let client = database.connect("sidecar").await;
        let before = stored(&admin).await;
        let rejection = rejection(push(&client, "s", named(0, "bad")).await);
        assert_eq!((rejection.sqlstate.as_str(), rejection.message.as_str()), ("P0042", "too late"));
        assert_eq!(stored(&admin).await, before);
        assert_eq!(ears.heard().await, [json!(null); 0]);
    }
    push(&admin, "s", named(0, "good")).await.unwrap();
}

#[tokio::test]
async fn a_hook_that_raises_at_commit_does_not_take_other_pushes_down() {
    let database = Database::new().await;
    run(&database.admin().await, REJECT_BAD_LATE).await;
    let client = database.connect("sidecar").await;
    let pushes = [Push::to("a", named(0, "good")), Push::to("b", named(0, "bad")), Push::to("c", named(0, "good"))];
    let outcomes = try_push_batch(&client, &pushes).await.map_err(|error| rejection(Err::<(), _>(error)));
    let outcomes = outcomes.expect("the error of one push is not that of the call");
    assert_eq!(outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(), [Ok(1), Err("P0042"), Ok(1)]);
}

#[tokio::test]
async fn what_another_log_says_to_a_hook_is_not_said_to_the_client() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create function public.forward() returns trigger language plpgsql as $$
         begin perform livestore.push('audit', '[]', 'an id of long ago'); return null; end $$;
         create trigger forward after insert on livestore.eventlog_1 for each row execute function public.forward()",
    )
    .await;
    let sql = "select sqlstate from livestore.push_batch(array['s'], array[$1], array[null])";
    let state: String = one_with(&admin, sql, &[&chain(0, 1).to_string()]).await;
    assert_eq!(state, "09000", "the client would drop its log at LS002");
}
