//! The programs of `tests/clients`, each in one file with the packages that it imports. The code is the packages' own, from the files
//! that Node would choose, but to load a bundle takes 0.5 s of CPU, and to load a thousand files 2.7 s.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::root;

const OPTIONS: [&str; 11] = [
    "--bundle",
    "--platform=node",
    "--format=esm",
    // The conditions by which Node chooses a file of a package: esbuild adds `module` otherwise.
    "--conditions=",
    // Errors and services are told apart by the names of their classes.
    "--keep-names",
    "--log-level=warning",
    // The packages that are CommonJS require Node's own modules.
    "--banner:js=const require = process.getBuiltinModule('module').createRequire(import.meta.url);",
    // They look for a binary beside their own file.
    "--external:@livestore/wa-sqlite",
    "--external:msgpackr-extract",
    // Only LiveStore's development tools import them.
    "--external:@livestore/devtools-vite",
    "--external:vite",
];

/// The bundle of a program: made when this process first asks for it, so that it is never older than what is in it.
pub fn of(program: &Path) -> PathBuf {
    static MADE: Mutex<BTreeMap<PathBuf, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().expect("every bundle before this one was made");
    made.entry(program.into()).or_insert_with(|| make(program)).clone()
}

fn make(program: &Path) -> PathBuf {
    let esbuild = root().join("tests/clients/node_modules/.bin/esbuild");
    let output =
        Command::new(esbuild).args(OPTIONS).arg(program).output().expect("tests/scripts/install-clients comes before");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "esbuild cannot bundle {}: {errors}", program.display());

    // Beside the program's packages, where it finds those that are not in the bundle.
    let (folder, name) = program.parent().zip(program.file_name()).expect("a file in a folder");
    let bundles = folder.join("node_modules/.bundles");
    std::fs::create_dir_all(&bundles).expect("a folder for bundles");
    let bundle = bundles.join(name);
    // Another process may make, or load, the same one at this moment.
    let mut file = tempfile::NamedTempFile::new_in(&bundles).expect("a file for a bundle");
    file.write_all(&output.stdout).expect("a bundle");
    file.persist(&bundle).expect("a bundle in its place");
    bundle
}
