//! The machine and the versions of a run: figures mean nothing without them.

use std::process::Command;

use serde::Serialize;

use crate::POSTGRES_SETTINGS;
use crate::systems::postgres_tool;
use crate::works::Size;

#[derive(Debug, Serialize)]
pub struct Machine {
    pub date: String,
    pub commit: String,
    pub processor: String,
    pub cores: usize,
    pub memory_gib: u64,
    pub kernel: String,
    pub postgres: String,
    pub postgres_settings: String,
    pub node: String,
    pub rounds: usize,
    pub seconds_a_round: u64,
    pub is_quick: bool,
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

fn field(file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim_start_matches([' ', '\t', ':']).to_owned()
}

pub fn describe(size: &Size) -> Machine {
    let kibibytes = field("/proc/meminfo", "MemTotal");
    Machine {
        date: output("date", &["-u", "+%Y-%m-%d"]),
        commit: output("git", &["describe", "--always", "--dirty"]),
        processor: field("/proc/cpuinfo", "model name"),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_gib: kibibytes.trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024 / 1024,
        kernel: output("uname", &["-sr"]),
        postgres: output(&postgres_tool("postgres").display().to_string(), &["--version"]),
        postgres_settings: POSTGRES_SETTINGS.trim().replace('\n', ", "),
        node: output("node", &["--version"]),
        rounds: size.rounds,
        seconds_a_round: size.time.as_secs(),
        is_quick: size.is_quick,
    }
}
