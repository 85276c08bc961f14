//! The statements that bring a database from its state to the one that is wanted.

use tokio_postgres::Client;

use super::Flavour;
use super::state::{JOIN_ROLES, LEAVE_ROLES, State, VERSION};
use crate::postgres::{hide_parameters, version_numbers, works_with};

/// The portable flavour, in a transaction of its own.
const PORTABLE: &str = include_str!(concat!(env!("OUT_DIR"), "/sql/livestore.sql"));
const LEAVE_EXTENSION: &str = include_str!("../../../sql/flavours/portable/adopt.sql");

/// Before anything else is locked: pushes and pulls lock the table of stores before others, and would wait for those.
pub const ALONE: &str = "lock table livestore.stores in access exclusive mode;";

/// The same, of all that an update changes, and without pushes that wait for long. The scripts begin with it, too, but what comes
/// before them would keep its locks while they try.
const LOCK: &str = include_str!("../../../sql/lock.sql");

/// Statements with their purpose.
#[derive(Debug)]
pub struct Change {
    pub what: String,
    pub sql: String,
    /// Run instead of it: a statement with `%L` for a secret ([`run_with_secret`]), and the secret.
    ///
    /// [`run_with_secret`]: crate::postgres::run_with_secret
    pub with_secret: Option<(String, String)>,
    /// Advice for the operator once they are committed.
    pub afterwards: Option<String>,
}

/// All that a command changes, and what it tells of that which it leaves.
#[derive(Debug, Default)]
pub struct Plan {
    pub changes: Vec<Change>,
    pub notes: Vec<String>,
}

impl From<Vec<Change>> for Plan {
    fn from(changes: Vec<Change>) -> Self {
        Self { changes, notes: Vec::new() }
    }
}

impl Change {
    fn new(what: impl Into<String>, sql: impl Into<String>) -> Self {
        Self { what: what.into(), sql: sql.into(), with_secret: None, afterwards: None }
    }
}

/// A state in which the wanted change is not made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    #[error(
        "this Postgres does not have the library of livestore_sync {VERSION}: run make install on its machine, or use --flavour portable"
    )]
    NoLibrary,
    #[error("the native flavour takes a superuser, and {role} is none: connect as one, or use --flavour portable")]
    NoSuperuser { role: String },
    #[error(
        "the database has livestore_sync {found}, and this program is {VERSION}: use livestore-sidecar {found} or later"
    )]
    Newer { found: String },
    #[error(
        "pg_tle has installed livestore_sync in this database: upgrade it by livestore-pg_tle--update.sql and alter extension livestore_sync update, uninstall it by drop extension"
    )]
    PgTle,
    #[error(
        "the database has livestore_sync {found}, the native flavour: bring it to 0.3.0 or later first, on a Postgres that has the library."
    )]
    TooOld { found: String },
    /// An operator who removed its objects, as an installation beside others' objects asks for, would lose the map of the shards.
    #[error(
        "this database is the front of shards, and has no livestore_sync of its own: livestore-sidecar shards upgrade brings it to this version"
    )]
    Front,
    #[error("livestore_sync is not installed in this database: run livestore-sidecar install")]
    NotInstalled,
    #[error("the database has stores: add --drop-data to delete them with all their events")]
    HasStores,
    #[error(
        "objects outside the schema livestore depend on it, and would be dropped with it: {}. Drop or change them, or add --drop-data to drop them, too",
        .dependents.join("; ")
    )]
    HasDependents { dependents: Vec<String> },
}

pub fn is_newer(version: &str) -> bool {
    version_numbers(version) > version_numbers(VERSION)
}

/// Whether a version is from before the portable flavour, which came with 0.3.0.
fn is_before_portable(version: &str) -> bool {
    version_numbers(version) < version_numbers("0.3.0")
}

/// The version of the functions, or that of the tables if it is higher.
fn highest(state: &State) -> Option<&str> {
    let installed = state.installed.as_ref().map(|(_, version)| version);
    installed.into_iter().chain(&state.highest).map(|version| &**version).max_by_key(|version| version_numbers(version))
}

/// The newer version that a database has, if this program works with it: whoever goes back to older sidecars installs with them, too.
pub fn newer(state: &State, flavour: Option<Flavour>) -> Option<&str> {
    let (installed, _) = state.installed.as_ref()?;
    let version = highest(state)?;
    let is_wanted = flavour.is_none_or(|wanted| wanted == *installed) && !state.is_of_pg_tle;
    (is_wanted && is_newer(version) && works_with(version)).then_some(version)
}

/// Installs a flavour, or the one that fits, or brings what is installed to this version.
pub fn install(state: &State, flavour: Option<Flavour>) -> Result<Vec<Change>, Refusal> {
    let fitting = if state.has_library && state.is_superuser { Flavour::Native } else { Flavour::Portable };
    let installed = state.installed.as_ref().map(|(flavour, _)| *flavour);
    let wanted = flavour.or(installed).unwrap_or(fitting);
    if state.is_of_pg_tle {
        return Err(Refusal::PgTle);
    }
    if state.is_front {
        return Err(Refusal::Front);
    }
    if let Some(found) = highest(state)
        && is_newer(found)
    {
        return Err(Refusal::Newer { found: found.to_owned() });
    }
    // This takes no rights.
    if state.installed.as_ref().is_some_and(|(from, version)| *from == wanted && version == VERSION) {
        return Ok(Vec::new());
    }
    if wanted == Flavour::Native || installed == Some(Flavour::Native) {
        if !state.is_superuser {
            return Err(Refusal::NoSuperuser { role: state.role.clone() });
        }
        // Without it, only the way to the portable flavour is open.
        if wanted == Flavour::Native && !state.has_library {
            return Err(Refusal::NoLibrary);
        }
    }
    let change = match (&state.installed, wanted) {
        (None, Flavour::Native) => Change::new(
            format!("Installing livestore_sync {VERSION}, the native flavour."),
            format!("create extension livestore_sync version '{VERSION}';"),
        ),
        (Some((Flavour::Native, version)), Flavour::Native) => Change::new(
            format!("Upgrading livestore_sync {version}, the native flavour, to {VERSION}."),
            format!("alter extension livestore_sync update to '{VERSION}';"),
        ),
        (Some((Flavour::Portable, version)), Flavour::Native) => Change::new(
            format!("Changing livestore_sync {version} from the portable flavour to the native one, {VERSION}."),
            format!(
                "create extension livestore_sync version 'portable';\nalter extension livestore_sync update to '{VERSION}';"
            ),
        ),
        (None, Flavour::Portable) => {
            Change::new(format!("Installing livestore_sync {VERSION}, the portable flavour."), portable())
        }
        (Some((Flavour::Portable, version)), Flavour::Portable) => {
            Change::new(format!("Upgrading livestore_sync {version}, the portable flavour, to {VERSION}."), portable())
        }
        (Some((Flavour::Native, version)), Flavour::Portable) => Change::new(
            format!("Changing livestore_sync {version} from the native flavour to the portable one, {VERSION}."),
            // Outside the extension, the objects of versions before 0.3.0 look like those of strangers.
            if !is_before_portable(version) {
                format!("{LEAVE_EXTENSION}\n{}", portable())
            } else if state.has_library {
                format!("alter extension livestore_sync update to '{VERSION}';\n{LEAVE_EXTENSION}\n{}", portable())
            } else {
                return Err(Refusal::TooOld { found: version.clone() });
            },
        ),
    };
    let change = match state.installed {
        None => change,
        Some((Flavour::Native, _)) => Change { sql: format!("{LOCK}\n{}", change.sql), ..change },
        // Once more, for the script that is printed.
        Some((Flavour::Portable, _)) => Change { sql: format!("{JOIN_ROLES}\n{LOCK}\n{}", change.sql), ..change },
    };
    Ok(vec![change])
}

/// Brings what is installed to this version.
pub fn upgrade(state: &State) -> Result<Vec<Change>, Refusal> {
    if state.installed.is_none() && !state.is_front {
        return Err(Refusal::NotInstalled);
    }
    install(state, None)
}

/// Removes the schema. Its roles stay: other databases of the cluster may use them.
pub fn uninstall(state: &State, drop_data: bool) -> Result<Vec<Change>, Refusal> {
    if state.is_front {
        return Err(Refusal::Front);
    }
    let (flavour, version) = state.installed.as_ref().ok_or(Refusal::NotInstalled)?;
    if state.is_of_pg_tle {
        return Err(Refusal::PgTle);
    }
    if state.has_stores && !drop_data {
        return Err(Refusal::HasStores);
    }
    let sql = match flavour {
        Flavour::Native => {
            "drop extension livestore_sync cascade;\ndrop schema if exists livestore cascade;".to_owned()
        }
        Flavour::Portable => format!("{JOIN_ROLES}\ndrop schema livestore cascade;\n{LEAVE_ROLES}"),
    };
    let change = Change {
        afterwards: Some(
            "The roles whose names begin with livestore_ stay: other databases of this cluster may use them.".into(),
        ),
        ..Change::new(format!("Uninstalling livestore_sync {version}."), sql)
    };
    Ok(vec![change])
}

/// Says in the first change which other objects it drops. They stay in one line, which is a comment in the script that is printed.
pub fn with_dependents(mut changes: Vec<Change>, dependents: &[String]) -> Vec<Change> {
    if let (Some(change), false) = (changes.first_mut(), dependents.is_empty()) {
        change.what = format!("{} Also dropped: {}.", change.what, dependents.join("; "));
    }
    changes
}

/// The script without its own transaction.
fn portable() -> String {
    let script = PORTABLE.split_once("\nbegin;\n").map_or(PORTABLE, |(_, script)| script);
    script.strip_suffix("commit;\n").unwrap_or(script).to_owned()
}

/// Lets a role push, and creates it if it does not exist.
pub async fn sidecar_role(
    client: &Client,
    role: &str,
    password: Option<&str>,
    plan: &mut Plan,
) -> Result<(), tokio_postgres::Error> {
    hide_parameters(client).await?;
    // Postgres quotes names and passwords, and makes the password that is not given.
    let row = client
        .query_one(
            "select to_regrole(quote_ident($1)) is not null,
                 coalesce(pg_has_role(to_regrole(quote_ident($1)), to_regrole('livestore_writer'), 'usage'), false),
                 format('grant livestore_writer to %I;', $1::text), p.password,
                 format('create role %I login password %L in role livestore_writer;', $1::text, p.password),
                 format('alter role %I password %L', $1::text, '…'),
                 replace(format('create role %I login in role livestore_writer password ', $1::text), '%', '%%') || '%L'
             from (select coalesce($2::text, replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''))) p(password)",
            &[&role, &password],
        )
        .await?;
    let (exists, is_writer): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    if exists && password.is_some() {
        let change: String = row.try_get(5)?;
        plan.notes.push(format!("The role {role} exists: its password was not changed. To change it: {change}"));
    }
    plan.changes.extend(match (exists, is_writer) {
        (true, true) => None,
        (true, false) => {
            Some(Change::new(format!("Granting livestore_writer to the role {role}."), row.try_get::<_, String>(2)?))
        }
        (false, _) => {
            let advice = match password {
                Some(_) => format!("The sidecar connects as the role {role}, with the password that you have given."),
                None => {
                    let password: String = row.try_get(3)?;
                    format!(
                        "The sidecar connects as the role {role}. Its password, which is not shown again: {password}"
                    )
                }
            };
            let change =
                Change::new(format!("Creating the role {role} for the sidecar."), row.try_get::<_, String>(4)?);
            let with_secret = Some((row.try_get(6)?, row.try_get(3)?));
            Some(Change { afterwards: Some(advice), with_secret, ..change })
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(installed: Option<(Flavour, &str)>, has_library: bool, is_superuser: bool) -> State {
        let installed = installed.map(|(flavour, version)| (flavour, version.to_owned()));
        let (is_of_pg_tle, is_front) = (false, false);
        State {
            installed,
            highest: None,
            is_of_pg_tle,
            is_front,
            has_library,
            is_superuser,
            role: "owner".into(),
            has_stores: true,
        }
    }

    /// The first statement that is not the script's.
    fn sql(state: &State, flavour: Option<Flavour>) -> Result<String, Refusal> {
        let changes = install(state, flavour)?;
        Ok(changes.into_iter().map(|change| change.sql).collect())
    }

    #[test]
    fn the_flavour_is_the_installed_one_or_the_one_that_fits() {
        use Flavour::{Native, Portable};
        let native = format!("create extension livestore_sync version '{VERSION}';");
        assert_eq!(sql(&state(None, true, true), None).unwrap(), native);
        for (has_library, is_superuser) in [(false, true), (true, false)] {
            assert_eq!(sql(&state(None, has_library, is_superuser), None).unwrap(), portable());
        }
        assert_eq!(
            sql(&state(Some((Portable, "0.2.9")), true, true), None).unwrap(),
            format!("{JOIN_ROLES}\n{LOCK}\n{}", portable())
        );
        assert_eq!(
            sql(&state(Some((Native, "0.2.0")), true, true), None).unwrap(),
            format!("{LOCK}\nalter extension livestore_sync update to '{VERSION}';")
        );
        for flavour in [Native, Portable] {
            assert_eq!(sql(&state(Some((flavour, VERSION)), true, true), None).unwrap(), "");
            assert_eq!(sql(&state(Some((flavour, VERSION)), false, false), Some(flavour)).unwrap(), "");
        }
    }

    #[test]
    fn functions_of_an_older_script_are_brought_to_the_version_of_the_tables() {
        let old = |highest: &str| State {
            highest: Some(highest.into()),
            ..state(Some((Flavour::Portable, "0.3.0")), false, false)
        };
        assert!(sql(&old(VERSION), None).unwrap().contains(&portable()));
        assert_eq!(newer(&old(VERSION), None), None);
        assert_eq!(sql(&old("0.10.0"), None), Err(Refusal::Newer { found: "0.10.0".into() }));
        assert_eq!(newer(&old("0.10.0"), None), Some("0.10.0"));
    }

    #[test]
    fn a_native_version_without_a_portable_flavour_is_updated_before_it_leaves_the_extension() {
        use Flavour::{Native, Portable};
        let update = format!("alter extension livestore_sync update to '{VERSION}';");
        for (version, is_updated) in [("0.1.0", true), ("0.2.0", true), ("0.3.0", false)] {
            let changed = sql(&state(Some((Native, version)), true, true), Some(Portable)).unwrap();
            assert_eq!(changed.contains(&update), is_updated, "{version}");
            assert!(changed.contains(LEAVE_EXTENSION), "{version}");
        }
        let refused = sql(&state(Some((Native, "0.2.0")), false, true), Some(Portable));
        assert_eq!(refused, Err(Refusal::TooOld { found: "0.2.0".into() }));
        assert!(sql(&state(Some((Native, "0.3.0")), false, true), Some(Portable)).is_ok());
    }

    #[test]
    fn what_cannot_be_installed_is_refused() {
        use Flavour::{Native, Portable};
        assert_eq!(sql(&state(None, false, true), Some(Native)), Err(Refusal::NoLibrary));
        let role = "owner".to_owned();
        assert_eq!(sql(&state(None, true, false), Some(Native)), Err(Refusal::NoSuperuser { role }));
        assert_eq!(
            sql(&state(Some((Portable, "0.10.0")), true, true), None),
            Err(Refusal::Newer { found: "0.10.0".into() })
        );
        let of_pg_tle = State { is_of_pg_tle: true, ..state(Some((Portable, VERSION)), true, true) };
        assert_eq!(sql(&of_pg_tle, None), Err(Refusal::PgTle));
        assert_eq!(newer(&of_pg_tle, None), None);
        let front = State { is_front: true, ..state(None, true, true) };
        assert_eq!(sql(&front, None), Err(Refusal::Front));
        assert_eq!(upgrade(&front).unwrap_err(), Refusal::Front);
        assert_eq!(uninstall(&front, true).unwrap_err(), Refusal::Front);
        assert_eq!(upgrade(&state(None, true, true)).unwrap_err(), Refusal::NotInstalled);
        assert_eq!(uninstall(&state(Some((Native, VERSION)), true, true), false).unwrap_err(), Refusal::HasStores);
        assert!(uninstall(&state(Some((Native, VERSION)), true, true), true).is_ok());
    }

    #[test]
    fn a_newer_version_that_this_program_works_with_is_left_as_it_is() {
        use Flavour::{Native, Portable};
        let (major, _) = VERSION.split_once('.').unwrap();
        let (compatible, other) = (format!("{major}.99.0"), format!("{}.0.0", major.parse::<u32>().unwrap() + 1));
        for installed in [Native, Portable] {
            let state = |version| state(Some((installed, version)), true, false);
            for flavour in [None, Some(installed)] {
                assert_eq!(newer(&state(&compatible), flavour), Some(&*compatible));
                assert_eq!(newer(&state(&other), flavour), None);
                assert_eq!(newer(&state(VERSION), flavour), None);
                assert_eq!(newer(&state("0.3.0"), flavour), None);
            }
            let another = if installed == Native { Portable } else { Native };
            assert_eq!(newer(&state(&compatible), Some(another)), None);
            assert_eq!(upgrade(&state(&compatible)).unwrap_err(), Refusal::Newer { found: compatible.clone() });
        }
    }

    #[test]
    fn the_script_has_no_transaction_of_its_own() {
        let script = portable();
        assert!(script.starts_with("create schema if not exists livestore;"), "{}", &script[..100]);
        assert!(!script.contains("\nbegin;") && !script.contains("\ncommit;"));
    }
}
