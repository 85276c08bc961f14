//! The report: `results.json` for machines, `README.md` for people, and a plot for each section.

pub mod panels;
mod plot;

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::machine::Machine;
use crate::measure::{Bound, Figure, Section, Target};
use crate::works::{S2_LITE, SYNC_CF};

#[derive(Serialize)]
struct Results<'a> {
    machine: &'a Machine,
    sections: &'a [Section],
}

/// Writes all of it into a folder, and the report to standard output.
pub fn write(folder: &Path, sections: &[Section], machine: &Machine) {
    std::fs::create_dir_all(folder).expect("a folder");
    let results = serde_json::to_string_pretty(&Results { machine, sections }).expect("JSON");
    std::fs::write(folder.join("results.json"), results + "\n").expect("a file");
    for section in sections {
        plot::bars(&folder.join(format!("{}.svg", section.id)), section);
    }
    let text = text(sections, machine);
    std::fs::write(folder.join("README.md"), &text).expect("a file");
    print!("{text}");
}

fn text(sections: &[Section], machine: &Machine) -> String {
    let mut out = String::from(
        "# Benchmarks\n\nWritten by `make bench`. The systems take turns on one machine in one run, and each figure is the median of the \
         rounds. Absolute figures differ from machine to machine, so compare the ratios.\n\n",
    );
    let m = machine;
    let quick = if m.is_quick { " (QUICK=1: shorter and smaller)" } else { "" };
    write_all(
        &mut out,
        format_args!(
            "{}, commit {}: {} rounds of {} s{quick}. {}, {} cores, {} GiB, {}. {}, {}; Node {}.\n\n",
            m.date,
            m.commit,
            m.rounds,
            m.seconds_a_round,
            m.processor,
            m.cores,
            m.memory_gib,
            m.kernel,
            m.postgres,
            m.postgres_settings,
            m.node
        ),
    );
    compare(&mut out, sections);
    for section in sections {
        write_all(&mut out, format_args!("\n## {}\n\n![{}]({}.svg)\n\n", section.title, section.title, section.id));
        write_all(
            &mut out,
            format_args!(
                "| system | {} | p50 | p99 | rounds | load generator |\n|---|---|---|---|---|---|\n",
                section.unit
            ),
        );
        for figure in &section.figures {
            out.push_str(&row(figure));
        }
        for note in &section.notes {
            write_all(&mut out, format_args!("\n{note}\n"));
        }
    }
    out.push_str(NOT_COMPARABLE);
    list_targets(&mut out, sections);
    out
}

/// Answers the first question of a user: how fast is it beside the others?
fn compare(out: &mut String, sections: &[Section]) {
    out.push_str(
        "## How fast is it, compared with what?\n\n| work | compared with | this backend has |\n|---|---|---|\n",
    );
    for section in sections {
        for target in section.targets.iter().filter(|target| is_other(&target.against)) {
            let what = match target.bound {
                Bound::AtLeast(_) => "the events per second",
                Bound::AtMost(_) => "the time",
            };
            let (work, ratio) = (&section.title, number(target.ratio));
            write_all(out, format_args!("| {work} | {} | {ratio} × {what} |\n", target.against));
        }
    }
}

/// Whether something is compared with another system, and not with itself or with a bound.
fn is_other(against: &str) -> bool {
    [SYNC_CF, S2_LITE, "bare PostgreSQL", "copy"].iter().any(|other| against.starts_with(other))
}

fn list_targets(out: &mut String, sections: &[Section]) {
    out.push_str("\n## Targets of this project\n\n| work | against | measured | target |\n|---|---|---|---|\n");
    for section in sections {
        for target in &section.targets {
            let (work, ratio, bound) = (&section.title, number(target.ratio), bound(target));
            write_all(out, format_args!("| {work} | {} | {ratio} | {bound} |\n", target.against));
        }
    }
}

fn row(figure: &Figure) -> String {
    let latency = |value: Option<f64>| value.map(|value| format!("{} ms", number(value))).unwrap_or_default();
    let rounds: Vec<String> = figure.rounds.iter().map(|value| number(*value)).collect();
    let note = figure.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
    let cores = figure.generator_cores.map(|cores| format!("{cores:.2} cores")).unwrap_or_default();
    format!(
        "| {}{note} | {} | {} | {} | {} | {cores} |\n",
        figure.system,
        number(figure.median),
        latency(figure.latency.map(|latency| latency.p50)),
        latency(figure.latency.map(|latency| latency.p99)),
        rounds.join(" · ")
    )
}

fn bound(target: &Target) -> String {
    match target.bound {
        Bound::AtLeast(least) => format!("≥ {}", number(least)),
        Bound::AtMost(most) => format!("≤ {}", number(most)),
    }
}

/// Three digits that count, and thousands in groups.
fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        let places = if value.abs() < 0.1 {
            4
        } else if value.abs() < 1.0 {
            3
        } else if value.abs() < 10.0 {
            2
        } else {
            1
        };
        let text = format!("{value:.places$}");
        return if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text };
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn write_all(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes everything");
}

const NOT_COMPARABLE: &str = "
## How to read the comparison

- workerd runs under `wrangler dev`, as on a developer's machine. Cloudflare's network spreads stores over many machines.
- s2-lite does not check the order of events and knows no stores: it appends what it is given. It acknowledges after a flush every few
  milliseconds.
- Durability: Postgres runs with `fsync` and `synchronous_commit` on, and each acknowledgement follows a commit that is on disk. s2-lite
  writes to the local disk (`--local-root`) before it acknowledges. workerd writes to SQLite in a local folder, and a Durable Object holds
  an answer back until its writes are done; we did not find out whether that includes an fsync under `wrangler dev`.
- Bare PostgreSQL checks nothing and notifies nobody. pgbench drives it over a Unix socket, without WebSocket or JSON.
- No system writes a log line for each request in this run. This backend and s2-lite would, at the level `info`.
- The logs to read are filled in different ways: this backend's directly in the table, the others' through their APIs.
- Reads are live pulls over WebSocket, as clients make them, until the last event has arrived. Over SSE they end by themselves.
- The load generator shares the machine with the systems. The tables show what it took.
";
