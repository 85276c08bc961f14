//! The functions that the extension's SQL declares and those that its library holds agree: pgrx writes the arguments and
//! results of each `#[pg_extern]` into the library, and the catalogs have those that Postgres was told of.

use std::path::PathBuf;
use std::process::Command;

use crate::support::{one_with, run};
use livestore_tests::cluster::Database;
use livestore_tests::flavour::is_skipped;
use livestore_tests::root;
use object::{Object, ObjectSection};
use pgrx_sql_entity_graph::metadata::{Returns, SqlArrayMapping, SqlMapping};
use pgrx_sql_entity_graph::section::{ELF_SECTION_NAME, decode_entities};
use pgrx_sql_entity_graph::{ExternArgs, PgExternEntity, PgExternReturnEntity, SqlGraphEntity, UsedTypeEntity};
use tokio_postgres::Client;

/// Functions behind another one, by way of which errors arrive as they were raised (`hook_errors.rs`).
const REPAIRED: [&str; 5] = ["append", "insert_events", "move_events", "delete_hooked_events", "update_hooked_events"];

/// The properties of a function that both sides have; names and types in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Function {
    name: String,
    symbol: String,
    arguments: Vec<(String, String)>,
    /// The columns of a `returns table`, or one without a name.
    returns: Vec<(String, String)>,
    returns_set: bool,
    strict: bool,
    volatility: String,
    parallel: String,
}

/// The metadata of the library that is installed.
fn library() -> Vec<u8> {
    let pg_config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".into());
    let output = Command::new(pg_config).arg("--pkglibdir").output().expect("pg_config");
    let folder = PathBuf::from(String::from_utf8(output.stdout).expect("UTF-8").trim());
    let control = std::fs::read_to_string(root().join("extension/livestore_sync.control")).expect("the control file");
    let (_, name) = control.split_once("module_pathname = '$libdir/").expect("a library");
    let (name, _) = name.split_once('\'').expect("its name");
    let library = std::fs::read(folder.join(format!("{name}.so"))).expect("the library; was it installed?");
    let file = object::File::parse(&*library).expect("a library");
    let section = file.section_by_name(ELF_SECTION_NAME).expect("pgrx's metadata");
    section.data().expect("readable").to_vec()
}

/// A type as pgrx writes it in SQL.
fn sql_type(mapping: &SqlMapping, used: &UsedTypeEntity<'_>) -> String {
    match mapping {
        SqlMapping::As(name) => name.clone(),
        SqlMapping::Array(SqlArrayMapping::As(name)) => format!("{name}[]"),
        SqlMapping::Composite => used.composite_type.expect("the name of the type").into(),
        SqlMapping::Array(SqlArrayMapping::Composite) => {
            format!("{}[]", used.composite_type.expect("the name of the type"))
        }
        SqlMapping::Skip => unreachable!("left out before"),
    }
}

fn argument_type(used: &UsedTypeEntity<'_>) -> String {
    sql_type(used.metadata.argument_sql.as_ref().expect("a type of arguments"), used)
}

fn return_type(used: &UsedTypeEntity<'_>) -> String {
    match used.metadata.return_sql.as_ref().expect("a type of results") {
        Returns::One(mapping) | Returns::SetOf(mapping) => sql_type(mapping, used),
        Returns::Table(_) => unreachable!("a table is iterated"),
    }
}

/// A function as the code defines it.
fn compiled(function: &PgExternEntity<'_>) -> Function {
    let has = |attribute| function.extern_attrs.contains(&attribute);
    let arguments: Vec<_> = function
        .fn_args
        .iter()
        .filter(|argument| argument.used_ty.metadata.argument_sql != Ok(SqlMapping::Skip))
        .collect();
    let (returns, returns_set) = match &function.fn_return {
        PgExternReturnEntity::None => (vec![(String::new(), "void".into())], false),
        PgExternReturnEntity::Trigger => (vec![(String::new(), "trigger".into())], false),
        PgExternReturnEntity::Type { ty } => (vec![(String::new(), return_type(ty))], false),
        PgExternReturnEntity::SetOf { ty } => (vec![(String::new(), return_type(ty))], true),
        PgExternReturnEntity::Iterated { tys } => {
            let name = |name: Option<&str>| name.unwrap_or_default().trim_matches('"').to_string();
            (tys.iter().map(|column| (name(column.name), return_type(&column.ty))).collect(), true)
        }
    };
    Function {
        name: function.name.into(),
        symbol: if REPAIRED.contains(&function.name) {
            format!("livestore_{}", function.name)
        } else {
            format!("{}_wrapper", function.unaliased_name)
        },
        arguments: arguments.iter().map(|it| (it.pattern.into(), argument_type(&it.used_ty))).collect(),
        returns,
        returns_set,
        // pgrx makes a function strict if no argument can be null.
        strict: has(ExternArgs::Strict) || !arguments.iter().any(|argument| argument.used_ty.optional),
        volatility: if has(ExternArgs::Immutable) {
            "immutable"
        } else if has(ExternArgs::Stable) {
            "stable"
        } else {
            "volatile"
        }
        .into(),
        parallel: if has(ExternArgs::ParallelSafe) {
            "safe"
        } else if has(ExternArgs::ParallelRestricted) {
            "restricted"
        } else {
            "unsafe"
        }
        .into(),
    }
}

/// All functions as the code defines them, with the types named as Postgres names them.
async fn in_the_library(client: &Client) -> Vec<Function> {
    let metadata = library();
    let entities = decode_entities(&metadata).expect("metadata of the pgrx that this test knows");
    let mut functions = Vec::new();
    for entity in &entities {
        // The SQL of earlier versions declares those of `legacy`.
        if let SqlGraphEntity::Function(function) = entity
            && !function.module_path.ends_with("::legacy")
        {
            let mut function = compiled(function);
            for (_, name) in function.arguments.iter_mut().chain(&mut function.returns) {
                *name = one_with(client, "select $1::text::regtype::text", &[name]).await;
            }
            functions.push(function);
        }
    }
    functions.sort();
    functions
}

/// All functions as the catalogs have them.
async fn in_the_database(client: &Client) -> Vec<Function> {
    let rows = client
        .query(
            "select p.proname::text, p.prosrc,
                 coalesce(arguments.names, '{}'), coalesce(arguments.types, '{}'),
                 coalesce(columns.names, '{\"\"}'), coalesce(columns.types, array[p.prorettype::regtype::text]),
                 p.proretset, p.proisstrict,
                 case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
                 case p.proparallel when 's' then 'safe' when 'r' then 'restricted' else 'unsafe' end
             from pg_proc p
             cross join lateral (
                 select array_agg(coalesce(p.proargnames[n], '') order by n) as names,
                     array_agg(type::regtype::text order by n) as types
                 from unnest(p.proargtypes) with ordinality argument(type, n)
             ) arguments
             cross join lateral (
                 select array_agg(p.proargnames[n] order by n) as names, array_agg(type::regtype::text order by n) as types
                 from unnest(p.proallargtypes, p.proargmodes) with ordinality argument(type, mode, n)
                 where mode in ('t', 'o')
             ) columns
             where p.prolang = (select oid from pg_language where lanname = 'c') and p.probin like '%livestore_sync%'
                 -- Not pgrx's.
                 and p.proname not in ('read_page', 'pull_page')",
            &[],
        )
        .await
        .expect("the catalogs");
    let pairs = |names: Vec<String>, types: Vec<String>| names.into_iter().zip(types).collect();
    let function = |row: &tokio_postgres::Row| Function {
        name: row.get::<_, &str>(0).trim_start_matches('_').into(),
        symbol: row.get(1),
        arguments: pairs(row.get(2), row.get(3)),
        returns: pairs(row.get(4), row.get(5)),
        returns_set: row.get(6),
        strict: row.get(7),
        volatility: row.get(8),
        parallel: row.get(9),
    };
    let mut functions: Vec<_> = rows.iter().map(function).collect();
    functions.sort();
    functions
}

#[tokio::test]
async fn every_function_of_the_library_is_declared_as_it_is() {
    if is_skipped("it has no library") {
        return;
    }
    let database = Database::new().await;
    let client = database.admin().await;
    let library = in_the_library(&client).await;
    assert!(library.iter().any(|function| function.name == "append"), "{library:#?}");
    assert_eq!(in_the_database(&client).await, library);
}

/// Statements that make the declaration of `fetch_source` another one, each in its own way.
const OTHER_DECLARATIONS: [(&str, &str); 9] = [
    ("it is missing", "'select'"),
    ("the number is a bigint", "replace(definition, 'max_events integer', 'max_events bigint')"),
    (
        "two arguments change places",
        "replace(replace(replace(definition, 'source oid', 'x oid'), 'cursor text', 'source text'), 'x oid', 'cursor oid')",
    ),
    ("an argument less", "replace(definition, ', max_events integer', '')"),
    ("a column of another type", "replace(definition, 'parent_seq_num bigint', 'parent_seq_num integer')"),
    (
        "two columns change places",
        "replace(replace(replace(definition, ' client_id ', ' x '), ' session_id ', ' client_id '), ' x ', ' session_id ')",
    ),
    ("it is not strict", "replace(definition, ' STRICT', '')"),
    ("it is stable", "replace(definition, ' STRICT', ' STABLE STRICT')"),
    ("it is parallel safe", "replace(definition, ' STRICT', ' PARALLEL SAFE STRICT')"),
];

/// The comparison notices the differences that it is there for.
#[tokio::test]
async fn another_declaration_is_noticed() {
    if is_skipped("it has no library") {
        return;
    }
    for (what, change) in OTHER_DECLARATIONS {
        let database = Database::new().await;
        let client = database.admin().await;
        let library = in_the_library(&client).await;
        assert_eq!(in_the_database(&client).await, library, "before the change");
        run(
            &client,
            &format!(
                "do $change$
                 declare
                     declared regprocedure;
                     definition text;
                 begin
                     select oid, pg_get_functiondef(oid) into declared, definition from pg_proc where proname = '_fetch_source';
                     execute 'alter extension livestore_sync drop function ' || declared;
                     execute 'drop function ' || declared;
                     execute {change};
                 end $change$"
            ),
        )
        .await;
        assert_ne!(in_the_database(&client).await, library, "{what}");
    }
}
