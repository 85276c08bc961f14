//! Histories that must be rejected, each for its reason, and good ones that must not.

use proptest::prelude::*;

use super::{Rule, check};
use crate::history::{
    Entry, Epoch, Erasure, EventId, Follow, Followed, Hindered, History, Outcome, Placed, Push, Read, Recorder,
    Recovery, Stream, Time,
};

fn id(n: u32) -> EventId {
    EventId { client: n % 3, n }
}

/// Event `n` at its own number.
fn placed(n: u32) -> Placed {
    Placed { seq_num: i64::from(n), event: id(n) }
}

fn up_to(n: u32) -> Vec<Placed> {
    (1..=n).map(placed).collect()
}

fn push(start: Time, end: Time, outcome: Outcome, events: Vec<Placed>) -> Push {
    Push { client: 0, dialect: "cf-ws".into(), since: 0, start, end, outcome, events }
}

fn stream(cursor: i64, events: Vec<Placed>) -> Stream {
    Stream {
        client: 1,
        dialect: "cf-ws".into(),
        since: 0,
        start: 0,
        end: 10_000,
        cursor,
        after: u32::try_from(cursor).ok().filter(|&n| n > 0).map(id),
        events,
        pages: vec![(0, 10_000)],
        erased: Vec::new(),
        restarts: Vec::new(),
        is_told_of_reset: false,
        is_of_another_log: false,
        ending: "the run".into(),
    }
}

fn read(start: Time, end: Time, events: Vec<Placed>) -> Read {
    Read { client: 2, dialect: "s2".into(), sidecar: 1, start, end, events, erased: Vec::new() }
}

fn log(events: impl IntoIterator<Item = EventId>) -> Vec<Entry> {
    (1..).zip(events).map(|(seq_num, event)| Entry { seq_num, parent_seq_num: seq_num - 1, event }).collect()
}

/// Event `n` is pushed from `100 n` to `100 n + 50`, and read right after; one push has to be repeated.
fn good(count: u32) -> History {
    let at = |n: u32| Time::from(n) * 100;
    let mut pushes: Vec<_> = (1..=count).map(|n| push(at(n), at(n) + 50, Outcome::Ok, vec![placed(n)])).collect();
    pushes.push(push(at(1) - 50, at(1) - 10, Outcome::Unknown, vec![placed(1)]));
    // A push that is behind, and is then rebased to its place in the log.
    let behind = Placed { seq_num: 1, event: id(count) };
    pushes.push(push(at(count) - 20, at(count) - 10, Outcome::ServerAhead, vec![behind]));
    History {
        store: "s".into(),
        epochs: vec![Epoch { start: 0, reset: None, log: log((1..=count).map(id)) }],
        pushes,
        streams: vec![stream(0, up_to(count)), stream(1, up_to(count)[1..].to_vec())],
        reads: (1..=count).map(|n| read(at(n) + 60, at(n) + 70, up_to(n))).collect(),
        hindered: Vec::new(),
        erasures: Vec::new(),
        recoveries: vec![Recovery {
            client: 1,
            dialect: "s2".into(),
            has_pushed: true,
            head: count.into(),
            unread: None,
            state: String::new(),
        }],
        follows: vec![follow(false, 1..=count), follow(true, (1..=count).chain(1..=count))],
    }
}

fn follow(may_repeat: bool, events: impl IntoIterator<Item = u32>) -> Follow {
    let position = |n: usize| if may_repeat { None } else { Some(n as i64 + 7) };
    let followed = |(n, event)| Followed { database: 0, has_left: false, position: position(n), placed: placed(event) };
    Follow { by: "it".into(), may_repeat, events: events.into_iter().enumerate().map(followed).collect() }
}

/// The rules that a history breaks.
fn broken(history: &History) -> Vec<Rule> {
    let mut rules: Vec<_> = check(history).into_iter().map(|violation| violation.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

/// The good history of five events, changed.
fn changed(change: impl FnOnce(&mut History)) -> Vec<Rule> {
    let mut history = good(5);
    change(&mut history);
    broken(&history)
}

#[test]
fn a_good_history_is_accepted() {
    assert_eq!(broken(&good(5)), []);
    assert_eq!(broken(&History::default()), []);
}

#[test]
fn a_lost_event_is_rejected() {
    let rules = changed(|history| history.epochs[0].log.truncate(4));
    assert!(rules.contains(&Rule::Lost), "{rules:?}");
}

#[test]
fn an_event_elsewhere_than_acknowledged_is_rejected() {
    let rules = changed(|history| history.pushes[4].events[0].seq_num = 6);
    assert!(rules.contains(&Rule::Lost), "{rules:?}");
}

#[test]
fn a_doubled_event_is_rejected() {
    let rules = changed(|history| history.epochs[0].log = log([1, 2, 3, 4, 5, 5].map(id)));
    assert!(rules.contains(&Rule::Doubled), "{rules:?}");
}

#[test]
fn a_log_with_a_gap_is_rejected() {
    let rules = changed(|history| history.epochs[0].log[2].seq_num = 4);
    assert!(rules.contains(&Rule::Broken), "{rules:?}");
}

#[test]
fn a_phantom_in_the_log_is_rejected() {
    assert_eq!(
        changed(|history| history.epochs[0].log = log([1, 2, 3, 4, 5, 99].map(id))),
        [Rule::Phantom, Rule::Missed, Rule::Stuck]
    );
}

#[test]
fn an_event_whose_push_was_refused_and_that_is_in_the_log_is_rejected() {
    let rules = changed(|history| history.pushes[4].outcome = Outcome::ServerAhead);
    assert_eq!(rules, [Rule::Phantom, Rule::FalseRefusal]);
}

#[test]
fn an_unknown_push_may_be_in_the_log_or_not() {
    assert_eq!(changed(|history| history.pushes[4].outcome = Outcome::Unknown), []);
    let never = vec![Placed { seq_num: 3, event: id(77) }];
    assert_eq!(changed(|history| history.pushes.push(push(1, 2, Outcome::Unknown, never))), []);
}

#[test]
fn an_event_before_one_that_was_acknowledged_before_it_was_pushed_is_rejected() {
    let rules = changed(|history| {
        history.reads.clear();
        // Pushed after everything else was acknowledged.
        (history.pushes[1].start, history.pushes[1].end) = (900, 950);
    });
    assert_eq!(rules, [Rule::Overtaken]);
}

#[test]
fn pushes_at_the_same_time_may_be_in_any_order() {
    let rules = changed(|history| {
        history.reads.clear();
        history.pushes.iter_mut().for_each(|push| push.end = 1000);
    });
    assert_eq!(rules, []);
}

#[test]
fn a_stale_read_after_an_acknowledgement_is_rejected() {
    assert_eq!(changed(|history| history.reads[3].events.truncate(3)), [Rule::Stale]);
    assert_eq!(changed(|history| history.reads[0].events.clear()), [Rule::Stale]);
}

#[test]
fn a_read_that_began_before_the_acknowledgement_may_lack_it() {
    let rules = changed(|history| {
        history.reads[3].events.pop();
        history.reads[3].start = 410;
    });
    assert_eq!(rules, []);
}

#[test]
fn a_read_of_sync_s2_may_be_short_while_its_sidecar_ends_in_an_outage() {
    let short = |sidecar: usize, start: Time, end: Time| {
        changed(|history| {
            history.reads[3].events.truncate(2);
            history.hindered.push(Hindered { sidecar, start, end });
        })
    };
    assert_eq!(short(1, 400, 500), []);
    assert_eq!(short(1, 480, 500), [Rule::Stale]);
    assert_eq!(short(0, 400, 500), [Rule::Stale], "another sidecar");
    let others = changed(|history| {
        history.reads[3].events.truncate(2);
        history.reads[3].dialect = "electric".into();
        history.hindered.push(Hindered { sidecar: 1, start: 400, end: 500 });
    });
    assert_eq!(others, [Rule::Stale]);
}

#[test]
fn only_a_sidecar_that_something_hinders_excuses_a_short_read() {
    let shut_down = |disturbed: Option<usize>, and_sidecar: usize| {
        let recorder = Recorder::start();
        let start = recorder.now();
        recorder.disturbed(disturbed, start);
        recorder.shut_down(and_sidecar, start);
        recorder.stream("s", stream(0, Vec::new()));
        recorder.finish()[0].hindered.len()
    };
    assert_eq!((shut_down(None, 0), shut_down(Some(0), 0), shut_down(Some(1), 0)), (1, 1, 0));
}

#[test]
fn an_event_that_comes_long_after_it_was_erased_as_it_was_is_rejected() {
    const LATE: Time = 30_000_000;
    let erased = |done: Time, is_erased: bool| {
        changed(|history| {
            history.erasures.push(Erasure { done, is_calm: false, events: vec![id(2)] });
            let erased = if is_erased { vec![id(2)] } else { Vec::new() };
            history.reads.push(Read { erased, ..read(LATE, LATE + 1, up_to(5)) });
        })
    };
    assert_eq!(erased(900, false), [Rule::Unerased]);
    assert_eq!(erased(900, true), []);
    assert_eq!(erased(LATE - 1000, false), [], "on its way");
    let erased_in_calm = |done: Time| {
        changed(|history| {
            history.erasures.push(Erasure { done, is_calm: true, events: vec![id(2)] });
            history.reads.push(read(LATE, LATE + 1, up_to(5)));
        })
    };
    assert_eq!(erased_in_calm(LATE - 4_000_000), [Rule::Unerased]);
    assert_eq!(erased_in_calm(LATE - 2_000_000), [], "on its way");
    let streamed = |pages: Vec<(usize, Time)>| {
        changed(|history| {
            history.erasures.push(Erasure { done: 900, is_calm: false, events: vec![id(2)] });
            history.streams[0].pages = pages;
        })
    };
    assert_eq!(streamed(vec![(0, 10), (2, LATE)]), [], "before that");
    assert_eq!(streamed(vec![(0, 10), (1, LATE)]), [Rule::Unerased]);
}

#[test]
fn a_read_of_sync_s2_may_be_short_if_the_store_is_reset_in_the_middle_of_it() {
    let short = |end: Time| {
        let mut history = reset();
        history.reads[3].events.truncate(2);
        history.reads[3].end = end;
        broken(&history)
    };
    assert_eq!(short(610), []);
    assert_eq!(short(590), [Rule::Stale]);
}

#[test]
fn a_read_with_a_phantom_or_with_another_order_is_rejected() {
    let rules = changed(|history| history.reads[4].events[4].event = id(99));
    assert_eq!(rules, [Rule::Disagreement]);
    let rules = changed(|history| history.reads[4].events.swap(0, 1));
    assert_eq!(rules, [Rule::Disagreement]);
    assert!(changed(|history| history.reads[4].events[0].event = id(99)).contains(&Rule::Phantom));
}

#[test]
fn a_stream_that_skips_repeats_or_reorders_is_rejected() {
    assert_eq!(
        changed(|history| history.streams[0].events = [up_to(2), up_to(5)[3..].to_vec()].concat()),
        [Rule::Disorder]
    );
    assert_eq!(changed(|history| history.streams[0].events.insert(2, placed(2))), [Rule::Disorder]);
    assert_eq!(changed(|history| history.streams[0].events.swap(1, 2)), [Rule::Disorder]);
    assert_eq!(changed(|history| history.streams[0].cursor = 1), [Rule::Disorder]);
}

#[test]
fn a_stream_may_repeat_only_where_the_client_began_anew() {
    let restarted = |restarts: Vec<usize>| {
        changed(|history| {
            history.streams[0].events = [up_to(3), up_to(5)].concat();
            history.streams[0].restarts = restarts;
        })
    };
    assert_eq!(restarted(vec![3]), []);
    assert_eq!(restarted(vec![2]), [Rule::Disorder]);
}

#[test]
fn a_stream_with_a_phantom_or_with_another_event_is_rejected() {
    assert_eq!(changed(|history| history.streams[0].events[2].event = id(99)), [Rule::Phantom]);
    assert_eq!(changed(|history| history.streams[0].events[2].event = id(4)), [Rule::Disagreement]);
}

/// Five events, a reset, and five others.
fn reset() -> History {
    let mut history = good(5);
    history.epochs[0].reset = Some((600, 650));
    history.epochs.push(Epoch { start: 600, reset: None, log: log((11..=15).map(id)) });
    let renewed = |n: u32| Placed { seq_num: i64::from(n) - 10, event: id(n) };
    let later = (11..=15).map(|n| push(Time::from(n) * 100, Time::from(n) * 100 + 50, Outcome::Ok, vec![renewed(n)]));
    history.pushes.extend(later);
    history.pushes.push(push(660, 670, Outcome::Reset, vec![Placed { seq_num: 6, event: id(6) }]));
    history.streams.push(stream(0, (11..=15).map(renewed).collect()));
    history.streams[0].is_told_of_reset = true;
    // The last events of the first log were gone before they were followed.
    let followed = up_to(3).into_iter().chain((11..=15).map(renewed)).map(|placed| Followed {
        database: 0,
        has_left: false,
        position: None,
        placed,
    });
    history.follows = vec![Follow { by: "it".into(), may_repeat: false, events: followed.collect() }];
    history.reads.push(read(1155, 1160, vec![renewed(11)]));
    history
}

#[test]
fn a_log_that_was_reset_begins_anew() {
    assert_eq!(broken(&reset()), []);
}

#[test]
fn what_is_from_before_a_reset_is_rejected_after_it() {
    let mut history = reset();
    history.reads.push(read(700, 710, up_to(5)));
    assert_eq!(broken(&history), [Rule::Stale]);
    let mut history = reset();
    history.streams[1].events.push(Placed { seq_num: 6, event: id(11) });
    assert_eq!(broken(&history), [Rule::Disagreement]);
}

#[test]
fn a_stream_that_goes_on_from_a_cursor_of_the_log_before_a_reset_is_rejected() {
    let from = |after: Option<EventId>| {
        let mut history = reset();
        let rest = (13..=15).map(|n| Placed { seq_num: i64::from(n) - 10, event: id(n) }).collect();
        history.streams.push(Stream { after, ..stream(2, rest) });
        broken(&history)
    };
    assert_eq!(from(Some(id(12))), []);
    assert_eq!(from(Some(id(2))), [Rule::Disagreement]);
}

#[test]
fn a_page_of_another_log_is_rejected_though_it_is_empty() {
    assert_eq!(changed(|history| history.streams[0].is_of_another_log = true), [Rule::Disagreement]);
}

#[test]
fn a_reset_that_was_none_is_rejected() {
    assert_eq!(changed(|history| history.streams[0].is_told_of_reset = true), [Rule::FalseReset]);
    let mut history = reset();
    history.pushes.push(Push { since: 700, ..push(800, 810, Outcome::Reset, vec![placed(77)]) });
    assert_eq!(broken(&history), [Rule::FalseReset]);
}

#[test]
fn a_repeated_push_that_is_refused_is_rejected() {
    let rules = changed(|history| history.pushes.push(push(900, 950, Outcome::ServerAhead, vec![placed(2)])));
    assert_eq!(rules, [Rule::FalseRefusal]);
    // Nobody was told that it is there.
    let unknown = changed(|history| {
        history.pushes[1].outcome = Outcome::Unknown;
        history.pushes.push(push(900, 950, Outcome::ServerAhead, vec![placed(2)]));
    });
    assert_eq!(unknown, [Rule::FalseRefusal]);
    // Others were first with the second of two events.
    let half = vec![placed(2), Placed { seq_num: 3, event: id(77) }];
    assert_eq!(changed(|history| history.pushes.push(push(900, 950, Outcome::ServerAhead, half))), []);
}

#[test]
fn a_push_that_was_refused_before_a_reset_may_be_in_the_next_log() {
    let mut history = reset();
    let event = history.epochs[1].log[0].event;
    let first = vec![Placed { seq_num: 1, event }];
    history.pushes.push(push(1, 2, Outcome::ServerAhead, first.clone()));
    assert_eq!(broken(&history), []);
    history.pushes.push(push(800, 810, Outcome::ServerAhead, first));
    assert_eq!(broken(&history), [Rule::FalseRefusal]);
}

#[test]
fn a_client_that_does_not_come_back_is_rejected() {
    assert_eq!(changed(|history| history.recoveries[0].has_pushed = false), [Rule::Stuck]);
    assert_eq!(changed(|history| history.recoveries[0].head = 4), [Rule::Stuck]);
    assert_eq!(changed(|history| history.recoveries[0].unread = Some("500".into())), [Rule::Stuck]);
}

proptest! {
    #[test]
    fn good_histories_of_any_length_are_accepted(count in 2u32..60) {
        prop_assert_eq!(broken(&good(count)), []);
    }

    /// The checker notices everything that is taken from a good history, put into it, or exchanged in it.
    #[test]
    fn no_change_of_a_good_history_is_accepted(count in 3u32..40, at in 0usize..1000, how in 0..8) {
        let mut history = good(count);
        let at = at % (count as usize - 1);
        let events = &mut history.streams[0].events;
        let log = &mut history.epochs[0].log;
        match how {
            0 => events.retain(|placed| *placed != up_to(count)[at]),
            1 => events.insert(at, events[at]),
            2 => events.swap(at, at + 1),
            3 => events[at].event = id(1000),
            4 => log.retain(|entry| entry.seq_num != at as i64 + 1),
            5 => log[at].event = log[at + 1].event,
            6 => (log[at].event, log[at + 1].event) = (log[at + 1].event, log[at].event),
            _ => history.reads[at].events.truncate(at),
        }
        prop_assert!(!broken(&history).is_empty());
    }
}

/// `prove` has nothing to show without them.
#[test]
fn the_broken_sidecars_can_be_made_of_todays() {
    let folder = livestore_tests::root().join("tests/chaos/broken");
    let patches: Vec<_> = folder.read_dir().unwrap().map(|patch| patch.unwrap().path()).collect();
    assert_eq!(patches.len(), 19);
    for patch in patches {
        let mut apply = std::process::Command::new("git");
        let status = apply.args(["apply", "--check"]).arg(&patch).current_dir(livestore_tests::root()).status();
        assert!(status.unwrap().success(), "{}", patch.display());
    }
}

#[test]
fn a_follower_that_misses_doubles_or_reorders_is_rejected() {
    let followed = |events: &[u32]| changed(|history| history.follows = vec![follow(false, events.iter().copied())]);
    assert_eq!(followed(&[1, 2, 3, 4, 5]), []);
    assert_eq!(followed(&[1, 2, 4, 5]), [Rule::Missed]);
    assert_eq!(followed(&[1, 2, 3, 4]), [Rule::Missed]);
    assert_eq!(followed(&[]), [Rule::Missed]);
    assert_eq!(followed(&[1, 2, 3, 3, 4, 5]), [Rule::Doubled]);
    assert_eq!(followed(&[1, 3, 2, 4, 5]), [Rule::Disorder]);
    assert_eq!(followed(&[1, 2, 3, 4, 5, 99]), [Rule::Phantom]);
    let repeated = |events: &[u32]| changed(|history| history.follows = vec![follow(true, events.iter().copied())]);
    assert_eq!(repeated(&[1, 2, 1, 2, 3, 4, 4, 5]), []);
    assert_eq!(repeated(&[1, 3, 1, 2, 3, 4, 5]), [Rule::Disorder]);
    let late = changed(|history| history.follows[0].events[3].position = Some(2));
    assert_eq!(late, [Rule::Disorder], "a position that came late");
    assert_eq!(changed(|history| history.follows[0].events[3].placed.seq_num = 9), [Rule::Disagreement, Rule::Missed]);
}

#[test]
fn followers_of_two_shards_have_each_event_on_one_of_them_in_its_order() {
    // Pairs of a database and an event.
    let followed = |may_repeat, events: &[(usize, u32)]| {
        let mut follow = follow(may_repeat, events.iter().map(|(_, event)| *event));
        for (followed, (database, _)) in follow.events.iter_mut().zip(events) {
            followed.database = *database;
        }
        changed(|history| history.follows = vec![follow])
    };
    for may_repeat in [false, true] {
        assert_eq!(followed(may_repeat, &[(0, 1), (0, 2), (1, 3), (1, 4), (0, 5)]), []);
        // Nobody knows which of two shards was read first.
        assert_eq!(followed(may_repeat, &[(1, 3), (0, 1), (1, 4), (0, 2), (0, 5)]), []);
        assert_eq!(followed(may_repeat, &[(1, 4), (0, 1), (1, 3), (0, 2), (0, 5)]), [Rule::Disorder]);
        assert_eq!(followed(may_repeat, &[(0, 1), (0, 2), (1, 2), (1, 3), (1, 4), (0, 5)]), [Rule::Doubled]);
        assert_eq!(followed(may_repeat, &[(0, 1), (0, 2), (1, 4), (0, 5)]), [Rule::Missed]);
    }
    assert_eq!(changed(|history| history.follows[0].events[3].has_left = true), [Rule::Disorder]);
    assert_eq!(followed(true, &[(0, 1), (0, 2), (1, 3), (1, 3), (1, 4), (0, 1), (0, 5)]), []);
}
