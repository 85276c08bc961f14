//! Where Postgres' programs are.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest Postgres that livestore_sync works with.
const OLDEST: u32 = 14;

/// Folders in which systems keep the programs of Postgres, with `*` for the version.
const PLACES: [&str; 5] = [
    // Debian, Ubuntu
    "/usr/lib/postgresql/*/bin",
    // Red Hat, SUSE
    "/usr/pgsql-*/bin",
    // Homebrew on Apple's processors, and on Intel's
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
];

/// A folder of Postgres' programs.
#[derive(Debug, PartialEq, Eq)]
pub struct Programs {
    pub folder: PathBuf,
    pub version: u32,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum NoPostgres {
    #[error(
        "there is no Postgres {OLDEST} or later on this machine, neither on the PATH nor in the usual places: install it (Debian: apt install \
         postgresql, macOS: brew install postgresql@17), name its folder by --postgres-bin, or a database by --database-url"
    )]
    Anywhere,
    #[error("--postgres-bin {}: this folder has no initdb, pg_ctl and postgres of version {OLDEST} or later", .0.display())]
    Here(PathBuf),
    #[error(
        "the data are those of PostgreSQL {needed}, which is not on this machine ({found} is): install it, or choose another --data"
    )]
    OfThatVersion { needed: u32, found: String },
}

impl Programs {
    /// Those of a folder, or the first that are found. A cluster that exists takes its own version; for a new one, a folder on the PATH
    /// comes before the newest in the usual places.
    pub fn find(given: Option<&Path>, needed: Option<u32>) -> Result<Self, NoPostgres> {
        let found = match given {
            Some(folder) => vec![Self::of(folder).ok_or_else(|| NoPostgres::Here(folder.to_owned()))?],
            None => Self::all(&std::env::var_os("PATH").unwrap_or_default(), &PLACES),
        };
        Self::choose(found, needed)
    }

    fn choose(found: Vec<Self>, needed: Option<u32>) -> Result<Self, NoPostgres> {
        let versions = found.iter().map(|programs| programs.version.to_string()).collect::<Vec<_>>().join(", ");
        if found.is_empty() {
            return Err(NoPostgres::Anywhere);
        }
        match needed {
            None => found.into_iter().next().ok_or(NoPostgres::Anywhere),
            Some(needed) => found
                .into_iter()
                .find(|programs| programs.version == needed)
                .ok_or(NoPostgres::OfThatVersion { needed, found: versions }),
        }
    }

    /// All that are in the folders of a PATH, and then those in other places, the newest first.
    fn all(path: &OsStr, places: &[&str]) -> Vec<Self> {
        let on_path = std::env::split_paths(path).filter_map(|folder| Self::of(&folder));
        let mut elsewhere: Vec<_> =
            places.iter().flat_map(|place| versions_of(place)).filter_map(|f| Self::of(&f)).collect();
        elsewhere.sort_by_key(|programs| std::cmp::Reverse(programs.version));
        on_path.chain(elsewhere).collect()
    }

    /// Those of a folder, if they are there and new enough.
    fn of(folder: &Path) -> Option<Self> {
        let folder = folder.canonicalize().ok()?;
        if !["initdb", "pg_ctl", "postgres"].iter().all(|name| folder.join(name).is_file()) {
            return None;
        }
        let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
        let version = major(&String::from_utf8_lossy(&output.stdout))?;
        (version >= OLDEST).then_some(Self { folder, version })
    }
}

/// 15 of `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The folders that a path with one `*` stands for.
fn versions_of(place: &str) -> Vec<PathBuf> {
    let Some((before, after)) = place.split_once('*') else { return Vec::new() };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or((".", before));
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| PathBuf::from(format!("{}{after}", entry.path().display())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(version: u32) -> Programs {
        Programs { folder: format!("/{version}").into(), version }
    }

    #[test]
    fn a_cluster_takes_its_own_version_and_a_new_one_the_first() {
        let found = || vec![programs(16), programs(15)];
        assert_eq!(Programs::choose(found(), None).unwrap(), programs(16));
        assert_eq!(Programs::choose(found(), Some(15)).unwrap(), programs(15));
        let refusal = Programs::choose(found(), Some(14)).unwrap_err().to_string();
        assert!(refusal.contains("PostgreSQL 14") && refusal.contains("16, 15"), "{refusal}");
        assert!(matches!(Programs::choose(vec![], Some(14)), Err(NoPostgres::Anywhere)));
    }

    #[test]
    fn versions_are_read_as_every_system_writes_them() {
        assert_eq!(major("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("postgres (EnterpriseDB)"), None);
    }

    #[test]
    fn a_star_stands_for_each_version() {
        let folder = std::env::temp_dir().join(format!("livestore-versions-{}", std::process::id()));
        for name in ["postgresql@14", "postgresql@17", "redis"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let mut found = versions_of(&format!("{}/postgresql@*/bin", folder.display()));
        found.sort();
        assert_eq!(found, ["postgresql@14", "postgresql@17"].map(|name| folder.join(name).join("bin")));
        fs::remove_dir_all(folder).unwrap();
    }
}
