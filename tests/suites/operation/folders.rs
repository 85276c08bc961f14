//! The sidecar's folders know only those below them, and no protocol knows another.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use livestore_tests::root;

/// The folders and files of `sidecar/src`, from the top down. Those on one line do not know each other.
const LAYERS: [&[&str]; 17] = [
    &["main", "lib"],
    &["program"],
    &["dev", "sharding"],
    &["cli", "health", "install", "process", "token"],
    &["check"],
    &["config"],
    &["server"],
    &["demo", "inspector"],
    &["protocols"],
    &["gate"],
    &["relay"],
    &["log"],
    &["auth"],
    &["limits", "postgres", "webhook"],
    &["telemetry"],
    &["settings"],
    &["shutdown", "time"],
];

/// Protocols that are made of others.
const MADE_OF: [(&str, &[&str]); 1] = [("sync_cf", &["rpc", "cf_0_3"])];

/// The modules that protocols may share.
const SHARED: [&str; 3] = ["body", "chunks", "websocket"];

#[test]
fn folders_know_only_those_below_them() {
    let ranks: HashMap<_, _> =
        LAYERS.iter().enumerate().flat_map(|(rank, names)| names.iter().map(move |name| (*name, rank))).collect();
    for (file, code) in sources() {
        let from = first(&file);
        let rank = ranks.get(&*from).unwrap_or_else(|| panic!("{from} is in no layer: put it into LAYERS"));
        for to in names_after(&code, "crate::") {
            let below = ranks.get(&*to).unwrap_or_else(|| panic!("{}: {to} is in no layer", file.display()));
            assert!(to == from || below > rank, "{} is below {to}, and uses it", file.display());
        }
    }
}

#[test]
fn no_protocol_knows_another() {
    let folder = |path: &Path| first(path.strip_prefix("protocols").unwrap());
    let files: Vec<_> = sources()
        .into_iter()
        .filter(|(file, _)| file.starts_with("protocols") && !file.ends_with("protocols/mod.rs"))
        .collect();
    let all: Vec<_> = files.iter().map(|(file, _)| folder(file)).collect();
    for (file, code) in &files {
        let own = folder(file);
        let parts = MADE_OF.iter().find(|(name, _)| **name == *own).map_or(&[][..], |(_, parts)| parts);
        for other in names_after(code, "crate::protocols::") {
            let may = other == own || SHARED.contains(&&*other) || parts.contains(&&*other) || !all.contains(&other);
            assert!(may, "{} uses {other}", file.display());
        }
    }
}

/// The files of the sidecar below `src`, without their tests.
fn sources() -> Vec<(PathBuf, String)> {
    let src = root().join("sidecar/src");
    let (mut folders, mut files) = (vec![src.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let code = std::fs::read_to_string(&path).unwrap();
                let code = code.split("#[cfg(test)]\nmod tests").next().unwrap().to_string();
                files.push((path.strip_prefix(&src).unwrap().into(), code));
            }
        }
    }
    assert!(files.len() > 80, "{} files", files.len());
    files
}

/// The first part of a path, without `.rs`.
fn first(path: &Path) -> String {
    let first = path.iter().next().unwrap().to_str().unwrap();
    first.strip_suffix(".rs").unwrap_or(first).into()
}

/// The names that follow a path: `crate::a` and `crate::{a, b::c}`.
fn names_after(code: &str, path: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(path) {
        let rest = &code[at + path.len()..];
        let listed = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        for name in listed.unwrap_or(rest).split(',').take(if listed.is_some() { usize::MAX } else { 1 }) {
            let is_name =
                |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_';
            let name: String = name.trim().chars().take_while(|character| is_name(*character)).collect();
            if !name.is_empty() && name != "self" {
                names.push(name);
            }
        }
    }
    names
}
