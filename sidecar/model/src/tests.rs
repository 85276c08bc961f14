//! Every setting is checked with all rules: no promise is broken. And for each rule, a setting is checked without it: a promise is broken.

use std::collections::BTreeMap;

use stateright::{Checker, HasDiscoveries, Model};

use super::promises::{END, LIVES, LOGS, PUSHES, READS, REST, REWRITTEN, STREAMS};
use super::rules::Rule;
use super::state::Faults;
use super::{Protocol, Setting};

const NO_FAULTS: Faults = Faults { commits: 0, resets: 0, rewrites: 0, deaf: 0, lost_commits: 0, crashes: 0, moves: 0 };

/// Sidecar 0 has the readers; a sidecar without any only commits.
const SETTING: Setting = Setting {
    events: 0,
    pushers: &[],
    streams: &[],
    scans: &[],
    page: 1,
    window: 1,
    listens: true,
    polls: false,
    faults: NO_FAULTS,
};

/// The sidecar starts.
const START: Setting = Setting { pushers: &[0, 1], streams: &[0], listens: false, ..SETTING };
const BOTH_FOLLOW: Setting = Setting { pushers: &[0, 1], streams: &[0, 1], ..SETTING };
const DEAF: Setting = Setting { streams: &[0], faults: Faults { commits: 3, deaf: 2, ..NO_FAULTS }, ..SETTING };
const LOST_COMMIT: Setting =
    Setting { pushers: &[0, 1], streams: &[0], faults: Faults { lost_commits: 1, ..NO_FAULTS }, ..SETTING };
const CRASH: Setting =
    Setting { pushers: &[0], streams: &[0], faults: Faults { commits: 1, crashes: 1, ..NO_FAULTS }, ..SETTING };
/// More than a page.
const MANY: Setting =
    Setting { events: 1, streams: &[0], page: 2, window: 2, faults: Faults { commits: 4, ..NO_FAULTS }, ..SETTING };
/// Some are the sidecar's own.
const MIXED: Setting = Setting { pushers: &[0, 1, 0], streams: &[0], page: 2, window: 2, ..SETTING };
const RESET: Setting =
    Setting { events: 1, streams: &[0], faults: Faults { commits: 2, resets: 1, deaf: 1, ..NO_FAULTS }, ..SETTING };
const RESET_AND_COMMIT: Setting = Setting {
    events: 1,
    pushers: &[0],
    streams: &[0],
    faults: Faults { resets: 1, lost_commits: 1, ..NO_FAULTS },
    ..SETTING
};
const MOVE: Setting = Setting { pushers: &[0], streams: &[0, 1], faults: Faults { moves: 1, ..NO_FAULTS }, ..SETTING };
const MOVE_AND_RESET: Setting =
    Setting { pushers: &[0], streams: &[0], faults: Faults { moves: 1, resets: 1, ..NO_FAULTS }, ..SETTING };
const REWRITE: Setting = Setting {
    events: 1,
    pushers: &[0],
    streams: &[0],
    faults: Faults { rewrites: 1, deaf: 1, ..NO_FAULTS },
    ..SETTING
};
const REWRITE_AND_REPEAT: Setting =
    Setting { pushers: &[0, 1], faults: Faults { rewrites: 1, lost_commits: 2, ..NO_FAULTS }, ..SETTING };
const SCANS: Setting =
    Setting { events: 1, pushers: &[1], scans: &[0, 0, 0], faults: Faults { resets: 1, ..NO_FAULTS }, ..SETTING };
const SCANS_AND_REWRITE: Setting =
    Setting { events: 2, scans: &[0, 0, 0], faults: Faults { rewrites: 1, deaf: 1, ..NO_FAULTS }, ..SETTING };
const SCAN_AND_STREAM: Setting = Setting {
    events: 2,
    streams: &[0],
    scans: &[0],
    faults: Faults { commits: 1, resets: 1, deaf: 1, ..NO_FAULTS },
    ..SETTING
};

const fn polling(setting: Setting) -> Setting {
    Setting { polls: true, ..setting }
}

/// Visits every state, until a promise is broken. Returns the promises that are, each with the steps that lead there.
fn broken(setting: &Setting, without: Option<Rule>) -> BTreeMap<&'static str, String> {
    let protocol = Protocol { setting: setting.clone(), without };
    let checker = protocol.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let states = checker.unique_state_count();
    assert!(states > 1000, "{states} states: {setting:?}");
    let paths = checker.discoveries().into_iter();
    paths.map(|(promise, path)| (promise, format!("{:?}", path.into_actions()))).collect()
}

fn every_promise_holds(settings: &[Setting]) {
    for setting in settings {
        let broken = broken(setting, None);
        assert!(broken.is_empty(), "{setting:?}\n{broken:#?}");
    }
}

#[test]
fn every_promise_holds_for_streams() {
    every_promise_holds(&[START, BOTH_FOLLOW, MIXED, DEAF, polling(DEAF), CRASH, MOVE]);
}

#[test]
fn every_promise_holds_for_pages_and_faults() {
    every_promise_holds(&[MANY, LOST_COMMIT, REWRITE_AND_REPEAT, SCANS, SCAN_AND_STREAM]);
    every_promise_holds(&[RESET, polling(RESET), RESET_AND_COMMIT, MOVE_AND_RESET]);
    every_promise_holds(&[REWRITE, polling(REWRITE), SCANS_AND_REWRITE, polling(SCANS_AND_REWRITE)]);
}

#[test]
fn without_a_rule_a_promise_breaks() {
    for (rule, setting, promise) in [
        (Rule::AcknowledgeAfterCommit, START, PUSHES),
        (Rule::RecognizeRepeats, LOST_COMMIT, PUSHES),
        (Rule::RecognizeRewritten, REWRITE_AND_REPEAT, PUSHES),
        (Rule::RefusePushesOfAnotherLife, RESET_AND_COMMIT, LIVES),
        (Rule::ListenBeforeReading, START, REST),
        (Rule::ListenBeforeReading, polling(START), REST),
        (Rule::Resync, DEAF, REST),
        (Rule::Resync, polling(DEAF), REST),
        (Rule::ResyncComparesLives, RESET, REST),
        (Rule::ResyncDropsHeldEvents, REWRITE, REWRITTEN),
        (Rule::ResyncHoldsNoLateAnswers, REWRITE, REWRITTEN),
        (Rule::DisownConnection, LOST_COMMIT, REST),
        (Rule::RefreshAfterUnknown, LOST_COMMIT, REST),
        (Rule::LookAgain, DEAF, REST),
        (Rule::PublishFollows, MIXED, STREAMS),
        (Rule::PublishComparesLives, MOVE_AND_RESET, STREAMS),
        (Rule::ApplyFollows, MANY, STREAMS),
        (Rule::TailEnds, RESET, END),
        (Rule::ApplyNothingOfBefore, REWRITE, REWRITTEN),
        (Rule::ForgetHeldEvents, REWRITE, REWRITTEN),
        (Rule::HoldNoLateAnswers, REWRITE, REWRITTEN),
        (Rule::WindowFollows, START, STREAMS),
        (Rule::StreamComparesLives, RESET, STREAMS),
        (Rule::AskBeforeRefusing, MOVE, LOGS),
        (Rule::ScanComparesLives, SCANS, READS),
        (Rule::OneSnapshot, SCANS, READS),
        (Rule::ShareOnlyLaterReads, SCANS, READS),
        (Rule::ConfirmLastPages, SCANS, READS),
        (Rule::ConfirmFirstPages, SCAN_AND_STREAM, LOGS),
        (Rule::DropPages, SCANS_AND_REWRITE, REWRITTEN),
        (Rule::KeepNothingOfBefore, SCANS_AND_REWRITE, REWRITTEN),
        (Rule::KeepNothingWhileDeaf, SCANS_AND_REWRITE, REWRITTEN),
    ] {
        let broken = broken(&setting, Some(rule));
        assert!(broken.contains_key(promise), "without {rule:?}: {broken:#?}");
    }
}
