//! Names that LiveStore's providers derive from store ids: several stores may have the same, and nobody's stands in the way of
//! another's. Nor do functions that have the names of Postgres' own.

use livestore_tests::cluster::Database;
use livestore_tests::dialects::{Answer, Caller};
use livestore_tests::events::event;
use livestore_tests::eventually;
use livestore_tests::rpc::Rpc;
use livestore_tests::shape;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{SECRET, Signer, WITH_SECRET, now};
use serde_json::{Value, json};
use tokio_postgres::Client;

/// Two long ids with the same hash, which LiveStore names their tables by.
const HASHED: [&str; 2] = [
    "djy4b59yz4-2-longlonglonglonglonglonglonglonglonglonglong",
    "strtiwnpri1n-longlonglonglonglonglonglonglonglonglonglong",
];

fn token(allowed: Value) -> String {
    Signer::secret(SECRET).sign(&json!({"sub": "ann", "exp": now() + 3600, "livestore": allowed}))
}

/// A store with one event, which says whose it is.
async fn create(admin: &Client, store: &str) {
    let batch = json!([event(0, store, json!({}))]);
    admin.execute("select livestore.push($1, $2)", &[&store, &batch]).await.unwrap();
}

async fn name(admin: &Client, function: &str, store: &str) -> String {
    let query = format!("select livestore.{function}($1)");
    admin.query_one(&query, &[&store]).await.unwrap().get(0)
}

async fn read(sidecar: &Sidecar, name: &str, token: &str, dialect: &str) -> Answer {
    Caller::with_token(sidecar, name, token).read(dialect).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_the_same_name_is_nothing_to_whoever_may_not_use_it() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    let admin = database.admin().await;
    let long = "s".repeat(100);
    let streams = [format!("{long}-victim"), format!("{long}-attacker")];
    let pairs = [["my-todos", "my_todos"], HASHED, streams.each_ref().map(|id| &**id)];
    for stores in pairs {
        for store in stores {
            create(&admin, store).await;
        }
    }
    for (function, dialect, pairs) in
        [("table_suffix", "electric-shape", &pairs[..2]), ("stream_name", "s2-rest", &pairs[2..])]
    {
        for [one, other] in pairs {
            let shared = name(&admin, function, one).await;
            assert_eq!(shared, name(&admin, function, other).await, "they have the same name");
            for (mine, theirs) in [(one, other), (other, one)] {
                let answer = read(&sidecar, &shared, &token(json!({*mine: "read"})), dialect).await;
                let event = |store: &str| {
                    answer.text.contains(&format!("\"{store}\"")) || answer.text.contains(&format!("\\\"{store}\\\""))
                };
                assert!(answer.status == 200 && event(mine) && !event(theirs), "{mine}: {answer:?}");
            }
            // A client that may use both has to say which one.
            let answer = read(&sidecar, &shared, &token(json!({*one: "read", *other: "read"})), dialect).await;
            assert!([409, 422].contains(&answer.status), "{answer:?}");
            // A client that may use neither hears nothing of them.
            let answer = read(&sidecar, &shared, &token(json!({"another": "read"})), dialect).await;
            assert_eq!(answer.status, 403, "{answer:?}");
        }
    }
    // An appended event goes to the store that the token is for.
    let stream = name(&admin, "stream_name", &streams[0]).await;
    let token = token(json!({&*streams[1]: "write"}));
    let appended =
        Caller::with_token(&sidecar, &stream, &token).write("s2-rest", json!([event(1, "e", json!({}))])).await;
    assert_eq!(appended.status, 200, "{appended:?}");
    let heads = "select array[livestore.head($1), livestore.head($2)]";
    let heads: Vec<i64> = admin.query_one(heads, &[&streams[0], &streams[1]]).await.unwrap().get(0);
    assert_eq!(heads, [1, 2]);
}

/// However many others have the name.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_the_same_name_hides_nobody() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    let admin = database.admin().await;
    let crowd =
        "select count(livestore.create_store(translate(to_char(n, 'FM0000000000'), '0123456789', '-_+.,;: !?') || 'a'))
        from generate_series(1, 1200) n";
    admin.query_one(crowd, &[]).await.unwrap();
    let mine = "________ /a";
    create(&admin, mine).await;
    let suffix = name(&admin, "table_suffix", mine).await;
    for allowed in [json!({mine: "read"}), json!({"________ /*": "read", "x\u{0}": "read"})] {
        let answer = read(&sidecar, &suffix, &token(allowed), "electric-shape").await;
        assert!(answer.status == 200 && answer.text.contains(mine), "{answer:?}");
    }
}

/// Without tokens, the operator's function decides which store a client may use.
#[tokio::test(flavor = "multi_thread")]
async fn the_authorize_function_tells_stores_of_the_same_name_apart() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let function = "create function public.may(store text, action text, payload json, headers json) returns boolean
        language sql set search_path = pg_catalog, pg_temp as $$ select headers->>'x-store' = store $$";
    admin.batch_execute(function).await.unwrap();
    let arguments = ["--authorize-function", "public.may", "--forward-headers", "x-store"];
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    for store in ["my-todos", "my_todos"] {
        create(&admin, store).await;
    }
    for store in ["my-todos", "my_todos"] {
        let params = [("table", "eventlog_6_my_todos"), ("offset", "-1")];
        let answer = shape::Answer::to(shape::get(&sidecar, &params).header("x-store", store)).await;
        assert!(
            answer.status == 200 && answer.text.contains(&format!("\"{store}\"")),
            "{} {}",
            answer.status,
            answer.text
        );
    }
    let params = [("table", "eventlog_6_my_todos"), ("offset", "-1")];
    assert_eq!(shape::Answer::to(shape::get(&sidecar, &params)).await.status, 403);
}

/// In `public`, where every role may create functions up to PostgreSQL 14. One whose arguments fit exactly would be called instead of
/// Postgres' own, with the rights of the sidecar.
#[tokio::test(flavor = "multi_thread")]
async fn functions_with_names_of_postgres_are_not_called() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let functions = "
        grant create on schema public to stranger;
        create table public.loot (who name, what text);
        grant insert on public.loot to public;
        create function public.may(store text, action text) returns boolean language sql return true;
        set role stranger;
        create function public.take(what text) returns void language sql as $$ insert into public.loot values (current_user, what) $$;
        create function public.unnest(text[]) returns setof text language plpgsql as $$ begin
            perform public.take('unnest');
            return query select pg_catalog.unnest($1);
        end $$;
        create function public.format(text, name, name) returns text language plpgsql as $$ begin
            perform public.take('format');
            return pg_catalog.format($1, $2, $3);
        end $$;
        create function public.quote_ident(name) returns text language plpgsql as $$ begin
            perform public.take('quote_ident');
            return pg_catalog.quote_ident($1::text);
        end $$;
        create function public.json_build_object(
            text, bigint, text, text, text, bigint, text, text, text, json, text, text, text, text, text, text, text, text
        ) returns json language plpgsql as $$ begin
            perform public.take('json_build_object');
            return '{}';
        end $$;
        reset role;
        select livestore.commit('s', 'e');
        select livestore.subscribe('sent', start => 'beginning', url => 'https://nobody.invalid/');";
    admin.batch_execute(functions).await.unwrap();
    let arguments = ["--authorize-function", "public.may"];
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let start =
        Start::new(database.url("sidecar")).arguments(&arguments).environment("LIVESTORE_WEBHOOK_SECRET", secret);
    let sidecar = start.ready().await;
    let mut live = Rpc::open(&sidecar.url(), "s").await;
    live.pull("live".into(), "s", true).await;
    live.frame().await;
    // The sidecar connects again, and looks at all logs that are followed.
    let sessions = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'sidecar'";
    admin.query(sessions, &[]).await.unwrap();
    admin.batch_execute("select livestore.commit('s', 'e')").await.unwrap();
    while !live.frame().await.to_string().contains("\"seqNum\":2") {
        live.send(json!({"_tag": "Ack", "requestId": "live"})).await;
    }
    let polled = "select count(*) from livestore.subscription_partitions where polled_at is not null";
    eventually("it is polled", async || admin.query_one(polled, &[]).await.unwrap().get::<_, i64>(0) == 1).await;
    let mut check = Start::program();
    check.args(["check", "--authorize-function", "public.may"]).env("DATABASE_URL", database.url("sidecar"));
    tokio::task::spawn_blocking(move || check.output().unwrap()).await.unwrap();
    let loot = admin.query("select distinct who::text || ' runs ' || what from public.loot", &[]).await.unwrap();
    let loot: Vec<String> = loot.iter().map(|row| row.get(0)).collect();
    assert!(loot.is_empty(), "{loot:?}");
}
