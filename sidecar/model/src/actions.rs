//! The steps, and when each is possible.

use stateright::{Model, Property};

use super::promises;
use super::state::{
    Committer, Note, Postgres, Pusher, Scan, SeqNum, Sidecar, Stage, State, Statement, Stream, Subscription,
};
use super::tail::{Listener, Step, Tail};
use super::{Protocol, Setting};

/// A step. The first ones are what clients, operators and faults do, or not; the others happen by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Push(usize),
    GiveUp(usize),
    Repeat { pusher: usize, at: usize },
    BeginScan(usize),
    Commit,
    Reset,
    Rewrite(SeqNum),
    LoseListener(usize),
    LoseCommit(usize),
    Crash(usize),
    Leave(usize),
    DropTail(usize),

    Send { at: usize, pusher: usize },
    Execute(usize),
    Settle(usize),
    EndOrphan { orphan: usize, is_carried_out: bool },
    Listen(usize),
    ReadHeads(usize),
    Resync(usize),
    Hear(usize),
    Notice(usize),
    ReadTail(usize),
    Apply(usize),
    Subscribe(usize),
    Next(usize),
    Look(usize),
    ReadPage { at: usize, read: usize },
    FinishPage { at: usize, read: usize },
}

impl Protocol {
    /// The state in which nothing is left to do, if everybody does at once what comes first. None if that never ends.
    pub fn at_rest(&self, state: &State) -> Option<State> {
        const STEPS: usize = 200;
        let (mut state, mut actions) = (state.clone(), Vec::new());
        for _ in 0..STEPS {
            actions.clear();
            self.own_actions(&state, &mut actions);
            match actions.first() {
                Some(action) if state.broken.is_none() => self.step(&mut state, *action),
                _ => return Some(state),
            }
        }
        None
    }

    pub fn is_at_rest(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        self.own_actions(state, &mut actions);
        actions.is_empty()
    }

    /// Whether a sidecar has readers.
    fn has_readers(&self, at: usize) -> bool {
        self.setting.faults.moves > 0 || self.setting.streams.contains(&at) || self.setting.scans.contains(&at)
    }

    /// What clients, operators and faults may do.
    fn other_actions(&self, state: &State, actions: &mut Vec<Action>) {
        // Those that have not begun differ in nothing but their sidecar.
        let idle = |pusher: &usize| state.pushers[*pusher] == Pusher::Idle;
        for at in 0..state.sidecars.len() {
            let first = (0..state.pushers.len()).filter(idle).find(|pusher| self.setting.pushers[*pusher] == at);
            actions.extend(first.map(Action::Push));
        }
        for (pusher, phase) in state.pushers.iter().enumerate() {
            match phase {
                Pusher::Waiting { is_repeated: true, .. } => actions.push(Action::GiveUp(pusher)),
                Pusher::Unknown(_) => actions.extend((0..state.sidecars.len()).map(|at| Action::Repeat { pusher, at })),
                _ => {}
            }
        }
        let idle = state.scans.iter().position(|scan| scan.stage == Stage::Idle);
        actions.extend(idle.map(Action::BeginScan));
        let faults = &state.faults;
        if faults.commits > 0 {
            actions.push(Action::Commit);
        }
        if faults.resets > 0 {
            actions.push(Action::Reset);
        }
        if faults.rewrites > 0 {
            actions.extend((1..=state.head()).map(Action::Rewrite));
        }
        for (at, sidecar) in state.sidecars.iter().enumerate() {
            if faults.deaf > 0 && sidecar.listener.is_heard {
                actions.push(Action::LoseListener(at));
            }
            if faults.lost_commits > 0 && sidecar.committer.pushing.is_some() {
                actions.push(Action::LoseCommit(at));
            }
            if faults.crashes > 0 {
                actions.push(Action::Crash(at));
            }
            let is_followed = state.streams.iter().any(|stream| stream.at == at && stream.subscription.is_some());
            if sidecar.tail.is_some() && !is_followed {
                actions.push(Action::DropTail(at));
            }
        }
        if faults.moves > 0 {
            let open = (0..state.streams.len()).filter(|client| state.streams[*client].subscription.is_some());
            actions.extend(open.map(Action::Leave));
        }
    }

    /// Steps that happen by themselves.
    fn own_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (pusher, phase) in state.pushers.iter().enumerate() {
            if let Pusher::Waiting { at, .. } = *phase
                && state.sidecars[at].committer.pushing.is_none()
            {
                actions.push(Action::Send { at, pusher });
            }
        }
        for orphan in 0..state.postgres.orphans.len() {
            actions.extend([true, false].map(|is_carried_out| Action::EndOrphan { orphan, is_carried_out }));
        }
        for (at, sidecar) in state.sidecars.iter().enumerate() {
            match &sidecar.committer.pushing {
                Some(pushing) if pushing.answer.is_some() => actions.push(Action::Settle(at)),
                Some(_) => actions.push(Action::Execute(at)),
                None => {}
            }
            if self.has_readers(at) {
                actions.extend(listening(at, &sidecar.listener));
            }
            if let Some(refresh) = sidecar.tail.as_ref().and_then(|tail| tail.refresh.as_ref()) {
                let is_answered = refresh.page.is_some();
                actions.push(if is_answered { Action::Apply(at) } else { Action::ReadTail(at) });
            }
            for (read, reading) in sidecar.pages.reads.iter().enumerate() {
                let is_answered = reading.page.is_some();
                let (finish, page) = (Action::FinishPage { at, read }, Action::ReadPage { at, read });
                actions.push(if is_answered { finish } else { page });
            }
        }
        for (client, stream) in state.streams.iter().enumerate() {
            let tail = state.sidecars[stream.at].tail.as_ref();
            match &stream.subscription {
                None => {
                    let waits = tail
                        .is_some_and(|tail| tail.life.is_none() || (tail.refresh.is_some() && !tail_has(tail, stream)));
                    if !waits {
                        actions.push(Action::Subscribe(client));
                    }
                }
                Some(Subscription { ask: Some(ask), .. }) => {
                    if !ask.has_joined {
                        actions.push(Action::Look(client));
                    }
                }
                Some(Subscription { end, .. }) => {
                    if end.is_some() || tail.is_some_and(|tail| tail.position > stream.last) {
                        actions.push(Action::Next(client));
                    }
                }
            }
        }
        for (scan, Scan { stage, .. }) in state.scans.iter().enumerate() {
            if let Stage::Reading { ask, .. } = stage
                && !ask.has_joined
            {
                actions.push(Action::Look(state.streams.len() + scan));
            }
        }
    }

    fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Push(pusher) => self.push(state, pusher, self.setting.pushers[pusher]),
            Action::GiveUp(pusher) => {
                if let Pusher::Waiting { push, .. } = state.pushers[pusher] {
                    state.pushers[pusher] = Pusher::Unknown(push);
                }
            }
            Action::Repeat { pusher, at } => {
                if let Pusher::Unknown(push) = state.pushers[pusher] {
                    state.pushers[pusher] = Pusher::Waiting { at, push, is_repeated: false };
                }
            }
            Action::BeginScan(scan) => self.begin_scan(state, scan),
            Action::Commit => {
                state.faults.commits -= 1;
                state.append(None, None);
            }
            Action::Reset => {
                state.faults.resets -= 1;
                state.postgres.lives.push(Vec::new());
                state.postgres.rewritten = None;
                state.notify(Note { head: None, source: None });
            }
            Action::Rewrite(seq_num) => {
                state.faults.rewrites -= 1;
                state.postgres.rewritten = Some(seq_num);
                state.notify(Note { head: None, source: None });
            }
            Action::LoseListener(at) => {
                state.faults.deaf -= 1;
                self.lose_listener(state, at);
            }
            Action::LoseCommit(at) => {
                state.faults.lost_commits -= 1;
                self.lose_commit(state, at);
            }
            Action::Crash(at) => {
                state.faults.crashes -= 1;
                crash(state, at);
            }
            Action::Leave(client) => {
                state.faults.moves -= 1;
                self.leave(state, client);
            }
            Action::DropTail(at) => state.sidecars[at].tail = None,
            Action::Send { at, pusher } => self.send(state, at, pusher),
            Action::Execute(at) => self.execute(state, at),
            Action::Settle(at) => self.settle(state, at),
            Action::EndOrphan { orphan, is_carried_out } => self.end_orphan(state, orphan, is_carried_out),
            Action::Listen(at) => self.listen(state, at),
            Action::ReadHeads(at) => self.read_heads(state, at),
            Action::Resync(at) => self.resync(state, at),
            Action::Hear(at) => self.hear(state, at),
            Action::Notice(at) => self.notice(state, at),
            Action::ReadTail(at) => self.read_tail(state, at),
            Action::Apply(at) => self.apply(state, at),
            Action::Subscribe(client) => self.subscribe(state, client),
            Action::Next(client) => self.next(state, client),
            Action::Look(reader) => self.look(state, reader),
            Action::ReadPage { at, read } => self.read_page(state, at, read),
            Action::FinishPage { at, read } => self.finish_page(state, at, read),
        }
    }
}

fn tail_has(tail: &Tail, stream: &Stream) -> bool {
    stream.life.is_none_or(|life| tail.life == Some(life)) && stream.last <= tail.position
}

fn listening(at: usize, listener: &Listener) -> Option<Action> {
    match &listener.step {
        Step::Away => Some(Action::Listen(at)),
        Step::Listening => Some(Action::ReadHeads(at)),
        Step::Read(_) => Some(Action::Resync(at)),
        Step::Following if !listener.is_heard => Some(Action::Notice(at)),
        Step::Following => (!listener.notes.is_empty()).then_some(Action::Hear(at)),
    }
}

/// A sidecar is killed. Its clients come back.
fn crash(state: &mut State, at: usize) {
    let connections = state.sidecars[at].committer.connections;
    if let Some(pushing) = state.sidecars[at].committer.pushing {
        let (pusher, push) = (pushing.pusher, pushing.push);
        if pushing.answer.is_none() {
            state.postgres.orphans.push(Statement { pusher, push, source: (at, connections) });
        }
        state.pushers[pusher] = Pusher::Unknown(push);
    }
    for pusher in &mut state.pushers {
        if let Pusher::Waiting { at: place, push, .. } = *pusher
            && place == at
        {
            *pusher = Pusher::Unknown(push);
        }
    }
    for stream in state.streams.iter_mut().filter(|stream| stream.at == at) {
        stream.subscription = None;
    }
    for scan in state.scans.iter_mut().filter(|scan| scan.at == at) {
        if let Stage::Reading { .. } = scan.stage {
            scan.stage = Stage::Done;
        }
    }
    state.sidecars[at] = Sidecar { committer: Committer { connections, ..Committer::default() }, ..Sidecar::default() };
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let Setting { events, pushers, streams, scans, faults, .. } = &self.setting;
        let mut sidecars = vec![Sidecar::default(), Sidecar::default()];
        for (at, sidecar) in sidecars.iter_mut().enumerate() {
            if self.setting.listens && self.has_readers(at) {
                sidecar.listener = Listener { step: Step::Following, is_heard: true, notes: Vec::new() };
                sidecar.pages.hears = true;
            }
        }
        vec![State {
            postgres: Postgres { lives: vec![vec![None; *events]], rewritten: None, orphans: Vec::new() },
            sidecars,
            pushers: vec![Pusher::Idle; pushers.len()],
            streams: streams.iter().map(|&at| Stream { at, life: None, last: 0, subscription: None }).collect(),
            scans: scans.iter().map(|&at| Scan { at, stage: Stage::Idle }).collect(),
            faults: *faults,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_none() {
            self.own_actions(state, actions);
            self.other_actions(state, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.step(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        promises::all()
    }
}
