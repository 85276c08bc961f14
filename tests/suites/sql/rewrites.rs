//! `livestore.rewrite_event` and `livestore.erase`: what is in a log is changed, and nothing else.

use crate::support::{Ears, all, log, one, push, rejection, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, up_to};
use serde_json::{Value, json};
use tokio_postgres::Client;

async fn args(client: &Client) -> Vec<String> {
    let args = "select concat_ws(' ', store_id, seq_num, name, args) from livestore.events order by store_id, seq_num";
    all(client, args).await
}

#[tokio::test]
async fn events_are_rewritten_in_shared_and_dedicated_tables() {
    let database = Database::new().await;
    let (admin, reader) = (database.connect("admin").await, database.connect("reader").await);
    for store in ["own", "shared"] {
        push(
            &admin,
            store,
            json!([event(0, "a", json!({"x": 1})), event(1, "b", json!({"x": 2})), event(2, "a", json!("\u{0}"))]),
        )
        .await
        .unwrap();
    }
    run(&admin, "select livestore.create_store('own', true)").await;
    let before: Vec<String> = all(&admin, "select concat_ws(' ', store_id, seq_num, parent_seq_num, client_id, session_id, created_at) from livestore.events order by 1").await;
    for store in ["own", "shared"] {
        run(&admin, &format!("select livestore.rewrite_event('{store}', 2, 'c', '{{ \"y\": 1.0 }}', 'poison')")).await;
        assert_eq!(
            one::<i64>(&admin, &format!("select livestore.erase('{store}', '{{3,1,3}}', '{{\"x\": 0}}')")).await,
            2
        );
        run(&admin, &format!("select livestore.erase('{store}', '{{}}', '1')")).await;
    }
    let expected: Vec<String> = ["own", "shared"]
        .iter()
        .flat_map(|store| {
            [
                format!("{store} 1 a {{\"x\": 0}}"),
                format!("{store} 2 c {{ \"y\": 1.0 }}"),
                format!("{store} 3 a {{\"x\": 0}}"),
            ]
        })
        .collect();
    assert_eq!(args(&reader).await, expected);
    let after: Vec<String> = all(&admin, "select concat_ws(' ', store_id, seq_num, parent_seq_num, client_id, session_id, created_at) from livestore.events order by 1").await;
    assert_eq!(after, before);
    run(&admin, "select livestore.rewrite_event('own', 2, 'c', null)").await;
    assert_eq!(args(&reader).await[1], "own 2 c");

    let rewrites: Vec<String> = all(
        &reader,
        "select concat_ws(' ', store_id, seq_num, reason, rewritten_by) from livestore.rewrites where rewritten_at > now() - interval '1 minute' order by 1",
    )
    .await;
    assert_eq!(
        rewrites,
        [
            "own 1 admin",
            "own 2 admin",
            "own 2 poison admin",
            "own 3 admin",
            "shared 1 admin",
            "shared 2 poison admin",
            "shared 3 admin"
        ]
    );
    // Their former content is not told.
    assert_eq!(rejection(reader.query("select * from livestore.rewritten_events", &[]).await).sqlstate, "42501");
    run(&admin, "select livestore.reset_store('own'), livestore.drop_store('shared')").await;
    assert_eq!(one::<i64>(&reader, "select count(*) from livestore.rewrites").await, 7, "they stay");
}

#[tokio::test]
async fn what_must_not_be_stored_is_refused_and_nothing_is_changed() {
    let database = Database::new().await;
    let admin = database.connect("admin").await;
    push(&admin, "s", chain(0, 3)).await.unwrap();
    run(&admin, "select livestore.define_event('todoCreated', '{\"required\": [\"id\"]}')").await;
    let before = args(&admin).await;
    let deep = format!("{}{}", "[".repeat(513), "]".repeat(513));
    for (call, sqlstate) in [
        ("rewrite_event('unknown', 1, 'e', '1')".to_string(), "LS004"),
        ("rewrite_event('s', 4, 'e', '1')".into(), "P0002"),
        ("rewrite_event('s', null, 'e', '1')".into(), "P0002"),
        ("rewrite_event('s', 1, null, '1')".into(), "LS003"),
        ("rewrite_event('s', 1, '', '1')".into(), "LS003"),
        (format!("rewrite_event('s', 1, 'e', '{deep}')"), "LS003"),
        ("rewrite_event('s', 1, 'todoCreated', '{}')".into(), "LS003"),
        ("erase('s', '{1,2}', '{}')".into(), "LS003"),
        ("erase('s', '{1,2,9}', '{\"id\": 0}')".into(), "P0002"),
        ("erase('s', '{1,null}', '{\"id\": 0}')".into(), "P0002"),
        ("erase('s', null, '{\"id\": 0}')".into(), "22004"),
        ("erase('s', '{1}', null)".into(), "22004"),
    ] {
        let refused = rejection(admin.query(&format!("select livestore.{call}"), &[]).await);
        assert_eq!(refused.sqlstate, sqlstate, "{call}: {}", refused.message);
    }
    assert_eq!(args(&admin).await, before);
    assert_eq!(one::<i64>(&admin, "select count(*) from livestore.rewrites").await, 0);
    assert_eq!(one::<i64>(&admin, "select livestore.last_position()").await, 3);
}

/// Its author, whose acknowledgement was lost, pushes it once more: it is neither refused nor written.
#[tokio::test]
async fn the_author_of_an_erased_event_may_push_it_again() {
    let database = Database::new().await;
    let (admin, sidecar) = (database.connect("admin").await, database.connect("sidecar").await);
    let original = json!([
        event(0, "a", json!({"secret": "s1"})),
        event(1, "a", json!({"secret": "s2"})),
        event(2, "a", json!({}))
    ]);
    for own_table in [false, true] {
        let store = format!("s {own_table}");
        push(&sidecar, &store, &original).await.unwrap();
        run(&admin, &format!("select livestore.create_store('{store}', {own_table}); select livestore.erase('{store}', '{{1,2}}', '{{}}')")).await;
        // Erased twice, it is still known as what it was.
        run(&admin, &format!("select livestore.rewrite_event('{store}', 2, 'b', '{{\"z\": 1}}')")).await;
        let longer = json!([original[0], original[1], original[2], event(3, "a", json!({"new": 1}))]);
        assert_eq!(push(&sidecar, &store, &original).await.unwrap(), 3);
        assert_eq!(push(&sidecar, &store, &longer).await.unwrap(), 4);
        assert_eq!(push(&sidecar, &store, &longer).await.unwrap(), 4);
        let other = json!([event(0, "a", json!({"secret": "s3"}))]);
        assert_eq!(rejection(push(&sidecar, &store, other).await).sqlstate, "LS001", "somebody else's");
        assert_eq!(log(&sidecar, &store).await, up_to(4));
    }
    assert!(!args(&admin).await.iter().any(|event| event.contains("secret")));
    // The digests of another store say nothing.
    push(&sidecar, "third", json!([event(0, "x", json!(1))])).await.unwrap();
    assert_eq!(rejection(push(&sidecar, "third", &original).await).sqlstate, "LS001");
}

/// A device of the peer relay pushes an event again that it has no answer for.
#[tokio::test]
async fn an_erased_event_does_not_come_back_through_the_relay() {
    let database = Database::new().await;
    let (admin, sidecar) = (database.connect("admin").await, database.connect("sidecar").await);
    for own_table in [false, true] {
        let store = format!("r {own_table}");
        let relay = |number: i64, secret: &str| {
            format!(
                "select livestore.relay_append('{store}', '{{a}}', array['{{\"secret\":\"{secret}\"}}'], '{{c}}', '{{s}}', '{{{number}}}', '{{1}}')"
            )
        };
        let append = relay(1, "s1");
        assert_eq!(one::<i64>(&sidecar, &append).await, 1);
        run(&admin, &format!("select livestore.create_store('{store}', {own_table}); select livestore.erase('{store}', '{{1}}', '{{}}')")).await;
        assert_eq!(one::<i64>(&sidecar, &append).await, 1);
        assert_eq!(one::<i64>(&sidecar, &relay(2, "s1")).await, 2, "another event with the same contents");
        run(&admin, &format!("select livestore.rewrite_event('{store}', 2, 'b', null)")).await;
        assert_eq!(one::<i64>(&sidecar, &relay(2, "s1")).await, 2);
        assert_eq!(one::<i64>(&sidecar, &relay(2, "s2")).await, 3, "an event that nobody has erased");
    }
    assert!(!args(&admin).await.iter().any(|event| event.contains("s1")));
}

/// A device pushes a long time offline again, if it has missed the answer. Others wait for the store meanwhile.
#[tokio::test]
async fn many_events_may_come_through_the_relay_again() {
    let database = Database::new().await;
    let sidecar = database.connect("sidecar").await;
    run(&sidecar, "set statement_timeout = '10s'").await;
    for numbers in ["n", "7"] {
        let append = format!(
            "select livestore.relay_append(
                 'r {numbers}', array_agg('a'::text), array_agg(n::text), array_agg('c'::text), array_agg('s'::text),
                 array_agg({numbers}::text), array_agg('1'::text)
             ) from generate_series(1, 5000) n"
        );
        for _ in 0..2 {
            assert_eq!(one::<i64>(&sidecar, &append).await, 5000, "{numbers}");
        }
    }
}

#[tokio::test]
async fn the_commit_log_and_listeners_are_told() {
    let database = Database::new().await;
    let (admin, sidecar) = (database.connect("admin").await, database.connect("sidecar").await);
    push(&sidecar, "s", chain(0, 2)).await.unwrap();
    run(&admin, "select livestore.subscribe('all', start => 'now'), livestore.subscribe('some', array['other'], start => 'now')").await;
    let mut ears = Ears::on_digests(&database).await;
    run(&admin, "select livestore.rewrite_event('s', 1, 'renamed', '{\"id\": \"new\"}')").await;
    let told = ears.heard().await;
    assert!(told.iter().any(|heads| heads.to_string().contains(":null")), "{told:?}");
    let read = "select concat_ws(' ', position, store_id, seq_num, name, args, change) from livestore.read_all(2)";
    // Not its name and args: those who do not look at `change` would take it for a new event.
    let expected = ["3 s 1 rewrite"];
    assert_eq!(all::<String>(&admin, read).await, expected);
    for subscription in ["all", "some"] {
        let poll = format!(
            "select concat_ws(' ', position, store_id, seq_num, name, args, change) from livestore.poll('{subscription}')"
        );
        assert_eq!(all::<String>(&sidecar, &poll).await, expected, "{subscription}");
    }
    let heads = "select concat_ws(' ', store_id, coalesce(head::text, 'null')) from livestore.heads_since(2) where store_id <> ''";
    assert_eq!(all::<String>(&sidecar, heads).await, ["s null"]);
    run(&admin, "select livestore.create_store('s', true), livestore.erase('s', '{1}', '0')").await;
    assert_eq!(all::<String>(&admin, read).await, ["3 s 1 rewrite", "4 s move", "5 s 1 rewrite"]);
}

/// Triggers on UPDATE are somebody's code: they run as livestore_hooks, if that may update.
#[tokio::test]
async fn triggers_on_update_run_as_hooks_do() {
    let database = Database::new().await;
    let (owner, admin) = (database.admin().await, database.connect("admin").await);
    push(&admin, "s", chain(0, 2)).await.unwrap();
    run(
        &owner,
        "create table public.seen (who text, what text);
         grant insert on public.seen to livestore_hooks;
         create function public.see() returns trigger language plpgsql as
             $$ begin insert into public.seen values (current_user, new.args::text); return new; end $$;
         create trigger see after update on livestore.eventlog_1 for each row execute function public.see()",
    )
    .await;
    let refused = rejection(admin.query("select livestore.erase('s', '{1}', '{}')", &[]).await);
    assert_eq!(
        (&*refused.sqlstate, &*refused.hint),
        ("42501", "grant select, update on livestore.eventlog_1 to livestore_hooks")
    );
    run(&owner, "grant select, update on livestore.eventlog_1 to livestore_hooks").await;
    run(&admin, "select livestore.erase('s', '{1}', '{}')").await;
    assert_eq!(all::<String>(&owner, "select who || ' ' || what from public.seen").await, ["livestore_hooks {}"]);
    run(
        &owner,
        "create or replace function public.see() returns trigger language plpgsql as $$ begin return null; end $$;
        drop trigger see on livestore.eventlog_1;
        create trigger see before update on livestore.eventlog_1 for each row execute function public.see()",
    )
    .await;
    let refused = rejection(admin.query("select livestore.erase('s', '{2}', '{}')", &[]).await);
    assert_eq!(refused.sqlstate, "27000", "{}", refused.message);
    assert_eq!(one::<i64>(&owner, "select count(*) from livestore.rewrites").await, 1);
}

#[tokio::test]
async fn dead_letters_are_erased_too() {
    let database = Database::new().await;
    let (admin, sidecar) = (database.connect("admin").await, database.connect("sidecar").await);
    push(&sidecar, "s", json!([event(0, "a", json!({"who": "ann"}))])).await.unwrap();
    run(&admin, "select livestore.subscribe('d', start => 'beginning', max_failures => 1)").await;
    run(&sidecar, "select livestore.nack(lease, error => 'ann is away') from livestore.poll('d')").await;
    let letters = "select concat_ws('|', name, args, error) from livestore.dead_letters";
    assert_eq!(all::<String>(&admin, letters).await, ["a|{\"who\":\"ann\"}|ann is away"]);
    run(&admin, "select livestore.erase('s', '{1}', '{\"who\": \"\"}')").await;
    assert_eq!(all::<String>(&admin, letters).await, ["a|{\"who\": \"\"}"]);
}

/// In its snapshot, the event is as it was.
#[tokio::test]
async fn a_worker_whose_transaction_is_older_makes_no_dead_letter_of_an_erased_event() {
    let database = Database::new().await;
    let (admin, sidecar) = (database.connect("admin").await, database.connect("sidecar").await);
    run(&admin, "select livestore.subscribe('new', max_failures => 1)").await;
    push(&sidecar, "s", json!([event(0, "a", json!({"who": "ann"}))])).await.unwrap();
    run(&admin, "select livestore.subscribe('old', start => 'beginning', max_failures => 1)").await;
    for (n, subscription) in ["new", "old"].into_iter().enumerate() {
        let lease: String = one(&sidecar, &format!("select lease from livestore.poll('{subscription}')")).await;
        let nack = format!("select livestore.nack('{lease}')");
        run(&sidecar, "begin isolation level repeatable read; select livestore.head('s')").await;
        run(&admin, &format!("select livestore.erase('s', '{{1}}', '{{\"n\": {n}}}')")).await;
        assert_eq!(rejection(sidecar.batch_execute(&nack).await).sqlstate, "40001", "{subscription}");
        run(&sidecar, &format!("rollback; {nack}")).await;
        let letters = format!("select args::text from livestore.dead_letters where subscription = '{subscription}'");
        assert_eq!(all::<String>(&admin, &letters).await, [format!("{{\"n\": {n}}}")], "{subscription}");
    }
}

#[tokio::test]
async fn what_workers_have_said_is_erased_too_and_nothing_stays_of_a_store_that_is_gone() {
    let database = Database::new().await;
    let (admin, sidecar) = (database.connect("admin").await, database.connect("sidecar").await);
    run(
        &admin,
        "select livestore.subscribe('d', max_failures => 1), livestore.subscribe('e', stores => 's%', partitions => 3),
             livestore.subscribe('other', stores => 'o%')",
    )
    .await;
    for change in [
        "erase('s', '{1}', '{\"who\": \"\"}')",
        "rewrite_event('s', 2, 'b', '{}')",
        "reset_store('s')",
        "drop_store('s')",
    ] {
        run(&sidecar, "select livestore.commit('s', 'a', '{\"who\": \"ann\"}'), livestore.commit('o', 'a')").await;
        run(&sidecar, "select livestore.nack(lease, error => 'ann is away') from livestore.poll('d', 1)").await;
        for subscription in ["e", "other"] {
            let nack = "select livestore.nack(lease, '0', 'ann is away') from livestore.poll($1, 1)";
            sidecar.execute(nack, &[&subscription]).await.unwrap();
        }
        let errors = "select name from livestore.subscriptions where error is not null order by name";
        assert_eq!(all::<String>(&admin, errors).await, ["d", "e", "other"], "{change}");
        run(&admin, &format!("select livestore.{change}")).await;
        assert_eq!(all::<String>(&admin, errors).await, ["other"], "{change}");
        let letters = "select concat_ws('|', args, error) from livestore.dead_letters where store_id = 's'";
        let letters = all::<String>(&admin, letters).await;
        assert!(!letters.iter().any(|letter| letter.contains("ann")), "{change}: {letters:?}");
        assert_eq!(letters.is_empty(), change.contains("store"), "{change}: {letters:?}");
        run(
            &admin,
            "select livestore.unsubscribe(name) from livestore.subscriptions;
             select livestore.subscribe('d', max_failures => 1), livestore.subscribe('e', stores => 's%', partitions => 3),
                 livestore.subscribe('other', stores => 'o%')",
        )
        .await;
    }
}

/// An index or a constraint is somebody's code, too, and must not run as the owner of the event logs.
#[tokio::test]
async fn indexes_and_constraints_of_the_application_run_as_hooks_do() {
    let database = Database::new().await;
    let (owner, admin) = (database.admin().await, database.connect("admin").await);
    push(&admin, "s", chain(0, 2)).await.unwrap();
    run(
        &owner,
        "create table public.seen (who text); grant insert, select on public.seen to livestore_hooks, livestore_owner;
         create function public.note() returns void language sql as 'insert into public.seen values (current_user)';
         create function public.of(args json) returns text language plpgsql immutable as $$ begin perform public.note(); return 'x'; end $$;
         create index mine on livestore.eventlog_1 (public.of(args)); delete from public.seen",
    )
    .await;
    let erase = "select livestore.erase('s', '{1}', '{\"id\": 0}')";
    assert_eq!(rejection(admin.query(erase, &[]).await).sqlstate, "42501");
    run(&owner, "grant select, update on livestore.eventlog_1 to livestore_hooks").await;
    run(&admin, erase).await;
    assert_eq!(all::<String>(&owner, "select distinct who from public.seen").await, ["livestore_hooks"]);
    run(
        &owner,
        "drop index livestore.mine;
         create function public.keep() returns trigger language plpgsql as $$ begin return new; end $$;
         create constraint trigger late after update on livestore.eventlog_1 deferrable initially deferred for each row execute function public.keep()",
    )
    .await;
    assert_eq!(rejection(admin.query(erase, &[]).await).sqlstate, "0A000");
    // An index of what Postgres and we come with needs no grant.
    run(
        &owner,
        "drop trigger late on livestore.eventlog_1; revoke select, update on livestore.eventlog_1 from livestore_hooks;
         create index ours on livestore.eventlog_1 (left(livestore.field(args, 'id'), 600), (args->>'id'))",
    )
    .await;
    run(&admin, erase).await;
}

#[tokio::test]
async fn domains_and_rules_of_the_application_run_as_hooks_do() {
    for (code, undo) in [
        (
            "alter table livestore.eventlog_1 add constraint mine check ((name::public.checked) is not null)",
            "alter table livestore.eventlog_1 drop constraint mine",
        ),
        (
            "create rule mine as on update to livestore.eventlog_1 do also select public.note('rule')",
            "drop rule mine on livestore.eventlog_1",
        ),
        (
            "create rule mine as on delete to livestore.eventlog_1 do also select public.note('rule')",
            "drop rule mine on livestore.eventlog_1",
        ),
        (
            "alter table livestore.eventlog_1 add mine boolean generated always as (public.note(name)) stored",
            "alter table livestore.eventlog_1 drop mine",
        ),
    ] {
        let database = Database::new().await;
        let (owner, admin) = (database.admin().await, database.connect("admin").await);
        push(&admin, "s", chain(0, 2)).await.unwrap();
        run(
            &owner,
            &format!(
                "create table public.seen (who text); grant insert, select on public.seen to public;
                 create function public.seen() returns boolean language sql as 'insert into public.seen values (current_user) returning true';
                 create function public.note(text) returns boolean language plpgsql immutable as $$ begin return public.seen(); end $$;
                 create domain public.checked as text check (public.note(value));
                 {code}; delete from public.seen"
            ),
        )
        .await;
        let change = if code.contains("delete") {
            "select livestore.reset_store('s')"
        } else {
            "select livestore.erase('s', '{1}', '{\"id\": 0}')"
        };
        let refused = rejection(admin.query(change, &[]).await);
        assert_eq!(refused.sqlstate, "42501", "{code}");
        run(&owner, &refused.hint).await;
        run(&owner, "grant select on livestore.eventlog_1 to livestore_hooks; delete from public.seen").await;
        run(&admin, change).await;
        assert_eq!(all::<String>(&owner, "select distinct who from public.seen").await, ["livestore_hooks"], "{code}");
        run(&owner, &format!("{undo}; revoke update, delete on livestore.eventlog_1 from livestore_hooks")).await;
        push(&admin, "t", chain(0, 1)).await.unwrap();
        run(&admin, "select livestore.erase('t', '{1}', '{}'), livestore.reset_store('t')").await;
    }
    // An enum runs nothing.
    let database = Database::new().await;
    let (owner, admin) = (database.admin().await, database.connect("admin").await);
    push(&admin, "s", chain(0, 1)).await.unwrap();
    run(
        &owner,
        "create type public.mood as enum ('good');
         alter table livestore.eventlog_1 add constraint mine check ('good'::public.mood is not null);
         create function public.keep() returns trigger language plpgsql as $$ begin return old; end $$;
         create constraint trigger late after delete on livestore.eventlog_1 deferrable for each row execute function public.keep()",
    )
    .await;
    run(&admin, "select livestore.erase('s', '{1}', '{}')").await;
    assert_eq!(rejection(admin.query("select livestore.reset_store('s')", &[]).await).sqlstate, "0A000");
}

/// A whole offline time may come again, of which everything was erased.
#[tokio::test]
async fn many_erased_events_may_be_pushed_again_in_one_batch() {
    let database = Database::new().await;
    let (admin, sidecar) = (database.connect("admin").await, database.connect("sidecar").await);
    let batch: Value = (0..1000).map(|n| event(n, "a", json!({"text": "x".repeat(500), "n": n}))).collect();
    push(&sidecar, "s", &batch).await.unwrap();
    run(&admin, "select livestore.erase('s', array(select generate_series(1, 1000)), '{}')").await;
    let since = std::time::Instant::now();
    assert_eq!(push(&sidecar, "s", &batch).await.unwrap(), 1000);
    assert!(since.elapsed().as_secs() < 20, "{:?}", since.elapsed());
}
