//! Writes the SQL scripts that `livestore-sidecar install` carries out: those of `sql/build`.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    for source in ["../sql", "../packaging/strict.sh", "../extension/livestore_sync.control"] {
        println!("cargo::rerun-if-changed={source}");
    }
    let folder = PathBuf::from(std::env::var("OUT_DIR")?).join("sql");
    let status = Command::new("bash").arg("../sql/build").arg(folder).status()?;
    if status.success() { Ok(()) } else { Err(format!("../sql/build: {status}").into()) }
}
