//! The output of a run: a line for each round, a table, and files for what has to be explained.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use livestore_tests::convergence::{Log, Played, Processes, Verdict};
use serde::Serialize;
use serde_json::json;

/// A system with one of its dialects, in one of the combinations of what is varied.
#[derive(Serialize)]
pub struct Row {
    pub system: String,
    pub dialect: String,
    /// Its clients are browsers.
    pub is_web: bool,
    #[serde(flatten)]
    pub variation: Variation,
    pub verdicts: Vec<Verdict>,
}

/// The variables of a round.
#[derive(Clone, Serialize)]
pub struct Variation {
    pub writers: usize,
    pub events: usize,
    pub pace: String,
    pub processes: Processes,
    pub materializers: String,
}

impl Row {
    pub fn name(&self) -> String {
        self.columns().join(", ")
    }

    /// The columns that tell it from other rows.
    fn columns(&self) -> [String; 6] {
        let Variation { writers, events, pace, processes, materializers } = &self.variation;
        let processes = match (processes, self.is_web) {
            (Processes::One, false) => "one process",
            (Processes::Each, false) => "a process each",
            (Processes::One, true) => "tabs of one browser",
            (Processes::Each, true) => "a browser each",
        };
        let extent = format!("{writers} × {events}");
        [self.system.clone(), self.dialect.clone(), extent, pace.clone(), processes.into(), materializers.clone()]
    }

    pub fn is_log_whole(&self) -> bool {
        self.verdicts.iter().all(Verdict::is_log_whole)
    }

    fn count(&self, what: impl Fn(&Verdict) -> bool) -> usize {
        self.verdicts.iter().filter(|verdict| what(verdict)).count()
    }

    fn sum(&self, what: impl Fn(&Verdict) -> usize) -> usize {
        self.verdicts.iter().map(what).sum()
    }

    /// Each with the number of the rounds in which it happened.
    fn reasons(&self) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        for reason in self.verdicts.iter().flat_map(|verdict| &verdict.reasons) {
            *reasons.entry(&**reason).or_insert(0) += 1;
        }
        reasons
    }
}

/// A round in a line.
pub fn line(verdict: &Verdict) -> String {
    let mut line = match verdict.seconds {
        Some(seconds) if verdict.converged => format!("converged in {seconds:.1} s"),
        _ => format!("not converged: {}", verdict.reasons.iter().cloned().collect::<Vec<_>>().join("; ")),
    };
    let _ = write!(line, "; {} pushes refused, {} given up", verdict.refused, verdict.given_up);
    if verdict.missing.count > 0 {
        let _ = write!(line, "; {} events missing", verdict.missing.count);
    }
    if !verdict.is_log_whole() {
        line.push_str("; THE LOG IS NOT WHOLE");
    }
    line
}

/// The report as far as it is known.
pub fn write(folder: &Path, rows: &[&Row], absent: &[String]) {
    fs::create_dir_all(folder).expect("a folder for the report");
    let about = about();
    let json = json!({"about": about, "absent": absent, "rows": rows});
    let json = serde_json::to_string_pretty(&json).expect("JSON");
    fs::write(folder.join("converge.json"), json + "\n").expect("the report");
    fs::write(folder.join("converge.md"), markdown(rows, &about, absent)).expect("the report");
}

/// Keeps all details of a round, so that its verdict can be explained.
pub fn keep(folder: &Path, row: &Row, verdict: &Verdict, played: &Played, log: &Log) {
    let all = json!({"round": row.name(), "verdict": verdict, "played": played, "log": log});
    fs::write(folder.join("round.json"), serde_json::to_string_pretty(&all).expect("JSON")).expect("a file");
}

fn about() -> String {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_string())
    };
    let date = output("date", &["-u", "+%F"]).unwrap_or_default();
    let commit = output("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{date}, commit {commit}, {cores} cores")
}

fn markdown(rows: &[&Row], about: &str, absent: &[String]) -> String {
    let mut text = format!("{HEAD}\n{about}. {}\n\n", absent.join(" "));
    let _ = writeln!(
        text,
        "{COLUMNS} converged | seconds | refused by the server | seen | by one client | given up | missing | lost | pushed twice | whole logs |"
    );
    let _ = writeln!(text, "{}", "|---".repeat(16) + "|");
    for row in rows {
        let rounds = row.verdicts.len();
        let mean = |what: fn(&Verdict) -> usize| row.sum(what) as f64 / rounds.max(1) as f64;
        let seconds = row.verdicts.iter().filter(|verdict| verdict.converged).filter_map(|verdict| verdict.seconds);
        let _ = writeln!(
            text,
            "| {} | **{} of {rounds}** | {} | {} | {:.1} | {} | {:.1} | {} | {} | {} | {} of {rounds} |",
            row.columns().join(" | "),
            row.count(|verdict| verdict.converged),
            median(seconds.collect()),
            server_ahead(row),
            mean(|verdict| verdict.refused),
            row.verdicts.iter().map(|verdict| verdict.most_refused).max().unwrap_or(0),
            mean(|verdict| verdict.given_up),
            missing(row),
            row.sum(|verdict| verdict.lost.len()),
            row.sum(|verdict| verdict.pushed_twice.len()),
            row.count(Verdict::is_log_whole),
        );
    }
    let _ = writeln!(text, "\nWhy rounds did not converge. A round can have several reasons.\n");
    let _ = writeln!(text, "{COLUMNS} rounds | reason |\n{}", "|---".repeat(8) + "|");
    for row in rows {
        for (reason, count) in row.reasons() {
            let _ = writeln!(text, "| {} | {count} | {} |", row.columns().join(" | "), reason.replace('|', "\\|"));
        }
    }
    text
}

/// The events that are not in the log, and where they are.
fn missing(row: &Row) -> String {
    let count = row.sum(|verdict| verdict.missing.count);
    if count == 0 {
        return "0".into();
    }
    let never_pushed = row.sum(|verdict| verdict.missing.never_pushed);
    let on_disk = row.sum(|verdict| verdict.missing.on_disk);
    format!("{count} ({never_pushed} never pushed, {on_disk} on disk)")
}

/// A round, where the server says so.
fn server_ahead(row: &Row) -> String {
    let counts: Option<Vec<_>> = row.verdicts.iter().map(|verdict| verdict.server_ahead).collect();
    let mean = |counts: Vec<usize>| counts.iter().sum::<usize>() as f64 / counts.len() as f64;
    counts.filter(|counts| !counts.is_empty()).map_or("–".into(), |counts| format!("{:.1}", mean(counts)))
}

fn median(mut values: Vec<f64>) -> String {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => "–".into(),
        n => format!("{:.1}", f64::midpoint(values[(n - 1) / 2], values[n / 2])),
    }
}

/// Those of [`Row::columns`].
const COLUMNS: &str = "| system | dialect | writers × events | pace | clients | todos |";

const HEAD: &str = "# Two people who type at the same moment

Written by `make converge`. In a round, several full clients of LiveStore 0.4.0 (`@livestore/adapter-node`, Node 24, each started
for the round) commit their events at the same moment on one store. When nothing changes any more, another client starts. A round
has converged when all have the same todos, all of them, and nothing pending. The systems take turns, round by round.

- **pace**: `burst`, all events of a writer in one turn of its event loop; `groups`, ten in a turn; `turns`, each in a turn of its
  own; `typing`, one every 50 ms.
- **clients**: one process for all writers, or a process each. In browsers (`@livestore/adapter-web`): a browser profile each, or tabs
  of one. Tabs are sessions of one client with one leader, so only one client talks to the server, and the contention is between the
  sessions and their leader. The pushes of browsers cannot be watched: of them *seen*, *given up* and *never pushed* are not known.
- **todos**: with `plain` materializers, as in most apps, a todo that a client inserts twice is an error that ends its store; with
  `idempotent` ones it is not.
- **seconds**: until the writers agreed, the median of the rounds that converged.
- **refused by the server**: the pushes a round that it refused because its log has events that the client lacks (ServerAhead).
  *Seen*: the refusals, and other errors, that reached a client that still waited for the answer. *By one client*: the most that one
  client met in a round.
- **given up**: the pushes a round that a client gave up, because a pull brought such events before the answer.
- **missing** events were committed by a client and are not in the log. *Never pushed*: the client never handed them to its sync
  backend. *On disk*: they are in the database of the client; the others are gone with its process.
- **lost** events were acknowledged to a client, or are confirmed in its database, and are not in the log.
- **pushed twice**: todos that a client has pushed as two events with two numbers, which a server cannot tell from two todos.
- **whole logs**: rounds in which the log is one chain, with every acknowledged event, and with no event that was not pushed so.
";
