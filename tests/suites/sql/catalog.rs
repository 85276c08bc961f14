//! The extension in the catalogs: the objects that it owns, all of which are explained there.

use crate::support::{all, one, run};
use livestore_tests::cluster::Database;
use livestore_tests::flavour::{Flavour, is_skipped};

#[tokio::test]
async fn every_object_has_a_comment() {
    let database = Database::new().await;
    let client = database.admin().await;
    // Indexes, sequences and row types come with what they belong to.
    let owned = "from (
             select 'pg_class'::regclass as classid, oid as objid from pg_class where relnamespace = 'livestore'::regnamespace
             union all
             select 'pg_proc'::regclass, oid from pg_proc where pronamespace = 'livestore'::regnamespace
             union all
             select 'pg_type'::regclass, oid from pg_type where typnamespace = 'livestore'::regnamespace
             union all
             select 'pg_trigger'::regclass, t.oid from pg_trigger t
             join pg_class c on c.oid = t.tgrelid and c.relnamespace = 'livestore'::regnamespace where not t.tgisinternal
         ) d
         left join pg_class c on d.classid = 'pg_class'::regclass and c.oid = d.objid
         left join pg_type t on d.classid = 'pg_type'::regclass and t.oid = d.objid
         left join pg_class of on of.oid = t.typrelid
         where coalesce(c.relkind, 'r') in ('r', 'v')
             and coalesce(t.typcategory, 'C') <> 'A' and coalesce(of.relkind, 'c') = 'c'";
    assert!(one::<i64>(&client, &format!("select count(*) {owned}")).await > 20);
    let uncommented: Vec<String> = all(
        &client,
        &format!(
            "select pg_describe_object(d.classid, d.objid, 0) {owned}
                 and obj_description(d.objid, d.classid::regclass::name) is null order by 1"
        ),
    )
    .await;
    assert_eq!(uncommented, [""; 0]);
}

#[tokio::test]
async fn every_column_has_a_comment() {
    let database = Database::new().await;
    let client = database.admin().await;
    let uncommented: Vec<String> = all(
        &client,
        "select a.attrelid::regclass || '.' || a.attname
         from pg_attribute a join pg_class c on c.oid = a.attrelid
         where c.relnamespace = 'livestore'::regnamespace and c.relkind in ('r', 'v', 'c') and a.attnum > 0
             and not a.attisdropped and col_description(a.attrelid, a.attnum) is null
         order by 1",
    )
    .await;
    assert_eq!(uncommented, [""; 0]);
}

#[tokio::test]
async fn everything_in_the_schema_belongs_to_the_extension() {
    if is_skipped("it is no extension") {
        return;
    }
    let database = Database::new().await;
    let client = database.admin().await;
    let loose: Vec<String> = all(
        &client,
        "select pg_describe_object(classid, oid, 0) from (
             select 'pg_class'::regclass, oid from pg_class
                 where relnamespace = 'livestore'::regnamespace and relkind in ('r', 'v')
             union all
             select 'pg_proc'::regclass, oid from pg_proc where pronamespace = 'livestore'::regnamespace
         ) object (classid, oid)
         where not exists (
             select from pg_depend d
             where d.classid = object.classid and d.objid = object.oid and d.deptype = 'e' and d.refclassid = 'pg_extension'::regclass
         )",
    )
    .await;
    assert_eq!(loose, [""; 0]);
}

#[tokio::test]
async fn dropping_the_extension_leaves_nothing_and_creating_it_again_works() {
    if is_skipped("it is no extension") {
        return;
    }
    let database = Database::new().await;
    let client = database.admin().await;
    run(&client, "select livestore.commit('s', 'e'); drop extension livestore_sync").await;
    let left = "select count(*) from pg_class where relnamespace = to_regnamespace('livestore')";
    assert_eq!(one::<i64>(&client, left).await, 0);
    run(&client, "create extension livestore_sync; select livestore.commit('s', 'e')").await;
    assert_eq!(one::<i64>(&client, "select livestore.head('s')").await, 1);
}

#[tokio::test]
async fn an_own_table_keeps_the_extension_from_being_dropped_unnoticed() {
    if is_skipped("it is no extension") {
        return;
    }
    let database = Database::new().await;
    let client = database.admin().await;
    run(&client, "select livestore.create_store('s', own_table => true), livestore.commit('s', 'e')").await;
    assert!(client.batch_execute("drop extension livestore_sync").await.is_err());
    run(&client, "drop extension livestore_sync cascade").await;
    let left = "select count(*) from pg_class where relnamespace = to_regnamespace('livestore')";
    assert_eq!(one::<i64>(&client, left).await, 0);
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused() {
    let database = Database::new().await;
    let name = format!("{}_latin", database.name());
    let create = format!("create database {name} template template0 encoding 'LATIN1' locale 'C'");
    run(&database.admin().await, &create).await;
    let latin = database.cluster().connect("postgres", &name).await;
    // As psql sends a script: a statement at a time. Later ones cannot be sent to such a database.
    let script = Flavour::of_tests().install();
    let script = script.split_once("-- Roles belong").map_or(script, |(beginning, _)| beginning);
    let error = latin.batch_execute(script).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.hint().is_some()), ("0A000", true), "{error:?}");
}

#[tokio::test]
async fn updates_of_heads_stay_on_their_page() {
    let database = Database::new().await;
    let client = database.admin().await;
    // Several full pages, and in one transaction, so that no old row makes room for a new one.
    run(&client, "select livestore.create_store('store ' || n) from generate_series(1, 300) n").await;
    run(&client, "select livestore.commit('store ' || n, 'e') from generate_series(1, 300) n").await;
    run(&client, "select pg_stat_force_next_flush()").await;
    let updates = "from pg_stat_user_tables where relid = 'livestore.stores'::regclass";
    let all_updates: i64 = one(&client, &format!("select n_tup_upd {updates}")).await;
    let hot_updates: i64 = one(&client, &format!("select n_tup_hot_upd {updates}")).await;
    assert!(all_updates >= 300 && hot_updates * 10 >= all_updates * 9, "{hot_updates} of {all_updates} were HOT");
}
