//! The crates that this project depends on: their licences, where they come from, and that none of ours is there twice.
//!
//! `cargo deny check bans licenses sources` checks the same and more, but takes minutes to install.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use livestore_tests::root;
use serde::Deserialize;

/// The licences that this project accepts. A crate that offers a choice needs one of them.
const LICENCES: [&str; 9] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Dependencies of ours that are there a second time, in the version of another crate.
const TWICE: [(&str, &str); 3] = [
    ("rand", "tokio-postgres and proptest use 0.10"),
    ("thiserror", "pgrx uses 1"),
    ("tower-http", "reqwest uses 0.6"),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    /// Null for the crates of this repository.
    source: Option<String>,
    license: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
}

/// All crates that `Cargo.lock` holds for this platform.
fn packages() -> Vec<Package> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1", "--filter-platform", &platform])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let packages = serde_json::from_slice::<Metadata>(&output.stdout).unwrap().packages;
    assert!(packages.len() > 200, "{}", packages.len());
    packages
}

/// Whether a licence expression is satisfied by `LICENCES`. It takes every `AND` for one outside of all `OR`s, as crates write
/// it, and is stricter than an expression that is written otherwise.
fn is_accepted(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], "");
    let is_one_accepted = |choice: &str| choice.split(" OR ").any(|licence| LICENCES.contains(&licence));
    expression.split(" AND ").all(is_one_accepted)
}

#[test]
fn every_dependency_has_an_accepted_licence() {
    let refused: Vec<_> = packages()
        .into_iter()
        .filter(|package| !package.license.as_deref().is_some_and(is_accepted))
        .map(|package| (package.name, package.license))
        .collect();
    assert_eq!(refused, []);

    assert!(is_accepted("(MIT OR Apache-2.0) AND Unicode-3.0"));
    for expression in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "LGPL-2.1-or-later OR AGPL-3.0-only", ""] {
        assert!(!is_accepted(expression), "{expression}");
    }
}

#[test]
fn every_dependency_comes_from_crates_io() {
    let registry = "registry+https://github.com/rust-lang/crates.io-index";
    let others: Vec<_> = packages()
        .into_iter()
        .filter(|package| package.source.as_deref().is_some_and(|source| source != registry))
        .map(|package| (package.name, package.source))
        .collect();
    assert_eq!(others, []);
}

#[test]
fn no_direct_dependency_is_there_twice() {
    let packages = packages();
    let ours = packages.iter().filter(|package| package.source.is_none());
    let direct: BTreeSet<&str> = ours.flat_map(|package| &package.dependencies).map(|d| d.name.as_str()).collect();
    let mut versions = BTreeMap::<&str, BTreeSet<&str>>::new();
    for package in &packages {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    let twice: Vec<_> =
        versions.iter().filter(|(name, versions)| direct.contains(*name) && versions.len() > 1).collect();
    let names: Vec<&str> = twice.iter().map(|(name, _)| **name).collect();
    assert_eq!(names, TWICE.map(|(name, _)| name), "{twice:?}");
}
