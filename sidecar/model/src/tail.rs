//! Tails and the connection that listens: `tail.rs`, `tails.rs`, `window.rs`, `listener.rs` and `poll.rs`.

use super::Protocol;
use super::rules::Rule;
use super::state::{End, Event, Life, Note, Page, SeqNum, Sidecar, State};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tail {
    /// None before the first look at Postgres.
    pub life: Option<Life>,
    pub position: SeqNum,
    /// The events that it holds, which lead up to its position.
    pub events: Vec<Event>,
    pub refresh: Option<Refresh>,
}

/// A look at Postgres.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Refresh {
    pub from: Option<SeqNum>,
    /// What Postgres has answered.
    pub page: Option<Page>,
    /// Events were dropped since it began.
    pub is_of_before: bool,
    pub again: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Listener {
    pub step: Step,
    /// LISTEN is in effect, and the connection is not lost.
    pub is_heard: bool,
    /// Notifications that have not been handled yet.
    pub notes: Vec<Note>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Step {
    #[default]
    Away,
    Listening,
    /// The head and the life that Postgres had; none if there was no tail to ask for.
    Read(Option<(SeqNum, Life)>),
    Following,
}

impl Refresh {
    fn new(from: Option<SeqNum>) -> Self {
        Self { from, page: None, is_of_before: false, again: false }
    }
}

impl Tail {
    /// A tail looks at Postgres first.
    pub fn new() -> Self {
        let refresh = Some(Refresh::new(None));
        Self { life: None, position: 0, events: Vec::new(), refresh }
    }

    fn skip_to(&mut self, head: SeqNum) {
        self.position = head;
        self.events.clear();
    }

    fn append(&mut self, events: impl IntoIterator<Item = Event>, size: usize) {
        for event in events {
            self.position = event.seq_num;
            self.events.push(event);
        }
        self.events.drain(..self.events.len().saturating_sub(size));
    }
}

impl Sidecar {
    /// Answers that are still to come are late.
    fn hold_no_answers(&mut self) {
        if let Some(pushing) = &mut self.committer.pushing {
            pushing.is_of_before = true;
        }
    }

    /// Drops the events that its tail holds.
    fn forget_held(&mut self) {
        if let Some(tail) = &mut self.tail {
            tail.events.clear();
            if let Some(refresh) = &mut tail.refresh {
                refresh.is_of_before = true;
            }
        }
    }
}

impl Protocol {
    /// Events that this sidecar has committed.
    pub fn publish(&self, state: &mut State, at: usize, event: Event, is_of_before: bool) {
        let Some(tail) = &mut state.sidecars[at].tail else { return };
        let is_following = tail.life.is_some_and(|life| life == event.life || !self.keeps(Rule::PublishComparesLives));
        let follows =
            event.seq_num == tail.position + 1 || (event.seq_num > tail.position && !self.keeps(Rule::PublishFollows));
        if is_following && follows {
            if is_of_before {
                tail.skip_to(event.seq_num);
            } else {
                tail.append([event], self.setting.window);
            }
        } else if !is_following || event.seq_num > tail.position {
            self.refresh(state, at);
        }
    }

    pub fn compare(&self, state: &mut State, at: usize, head: SeqNum, life: Option<Life>) {
        let Some(tail) = &state.sidecars[at].tail else { return };
        let is_same = tail.life.is_some_and(|own| tail.position == head && life.is_none_or(|life| life == own));
        if !is_same {
            self.refresh(state, at);
        }
    }

    pub fn refresh(&self, state: &mut State, at: usize) {
        let Some(tail) = &mut state.sidecars[at].tail else { return };
        match &mut tail.refresh {
            Some(refresh) => refresh.again = self.keeps(Rule::LookAgain),
            none => *none = Some(Refresh::new(tail.life.map(|_| tail.position))),
        }
    }

    /// Postgres answers the tail.
    pub fn read_tail(&self, state: &mut State, at: usize) {
        let from = state.sidecars[at].tail.as_ref().and_then(|tail| tail.refresh.as_ref()?.from);
        let page = match from {
            None => state.snapshot(0, 0),
            Some(from) => state.snapshot(from, self.setting.page),
        };
        if let Some(refresh) = state.sidecars[at].tail.as_mut().and_then(|tail| tail.refresh.as_mut()) {
            refresh.page = Some(page);
        }
    }

    /// `Tail::apply`.
    pub fn apply(&self, state: &mut State, at: usize) {
        let Some(tail) = &mut state.sidecars[at].tail else { return };
        let Some(Refresh { from, page: Some(page), is_of_before, again }) = tail.refresh.take() else { return };
        let end = match (tail.life, from) {
            (Some(life), _) if life != page.life && self.keeps(Rule::TailEnds) => Some(End::Reset),
            (_, Some(from)) if page.head < from => Some(End::Rewound),
            _ => None,
        };
        if end.is_some() {
            state.sidecars[at].tail = None;
            for stream in state.streams.iter_mut().filter(|stream| stream.at == at) {
                if let Some(subscription) = &mut stream.subscription {
                    subscription.end = end;
                }
            }
            return;
        }
        if from.is_none() {
            tail.skip_to(page.head);
            tail.life = Some(page.life);
        } else if page.head > tail.position {
            let news: Vec<_> = page.events.iter().filter(|event| event.seq_num > tail.position).copied().collect();
            let is_chain = news.first().is_some_and(|first| first.seq_num == tail.position + 1)
                && news.last().is_some_and(|last| last.seq_num == page.head);
            let is_of_before = is_of_before && self.keeps(Rule::ApplyNothingOfBefore);
            if (is_chain || !self.keeps(Rule::ApplyFollows)) && !is_of_before {
                tail.append(news, self.setting.window);
                tail.position = page.head;
            } else {
                tail.skip_to(page.head);
            }
        }
        if again {
            tail.refresh = Some(Refresh::new(Some(tail.position)));
        }
    }

    /// The sidecar connects; LISTEN is in effect. The position of the commit log, if it polls.
    pub fn listen(&self, state: &mut State, at: usize) {
        let is_heard = self.keeps(Rule::ListenBeforeReading);
        state.sidecars[at].listener = Listener { step: Step::Listening, is_heard, notes: Vec::new() };
    }

    /// Postgres tells where the logs stand.
    pub fn read_heads(&self, state: &mut State, at: usize) {
        let heads = state.sidecars[at].tail.is_some().then(|| (state.head(), state.life()));
        state.sidecars[at].listener.step = Step::Read(heads);
    }

    /// The rest of `Follower::resync`.
    pub fn resync(&self, state: &mut State, at: usize) {
        let sidecar = &mut state.sidecars[at];
        let Step::Read(heads) = std::mem::replace(&mut sidecar.listener.step, Step::Following) else { return };
        sidecar.listener.is_heard |= !self.keeps(Rule::ListenBeforeReading);
        if self.keeps(Rule::KeepNothingWhileDeaf) {
            sidecar.pages.drop_all();
        }
        sidecar.pages.hears = true;
        if self.keeps(Rule::ResyncDropsHeldEvents) {
            sidecar.forget_held();
        }
        if self.keeps(Rule::ResyncHoldsNoLateAnswers) {
            sidecar.hold_no_answers();
        }
        if let Some((head, life)) = heads
            && self.keeps(Rule::Resync)
        {
            self.compare(state, at, head, self.keeps(Rule::ResyncComparesLives).then_some(life));
        }
        self.take_note_of_rewrites(state, at);
    }

    /// A notification; all that has come, if the sidecar polls.
    pub fn hear(&self, state: &mut State, at: usize) {
        let notes = &mut state.sidecars[at].listener.notes;
        if self.setting.polls {
            let is_other = notes.iter().any(|note| note.head.is_none());
            let head = notes.pop().and_then(|note| note.head).filter(|_| !is_other);
            notes.clear();
            self.take(state, at, head);
        } else {
            let note = notes.remove(0);
            let own = state.sidecars[at].committer.own.map(|own| (at, own));
            if note.source.is_none() || note.source != own {
                self.take(state, at, note.head);
            }
        }
        self.take_note_of_rewrites(state, at);
    }

    /// `Tails::hint` or `Tails::forget`.
    fn take(&self, state: &mut State, at: usize, head: Option<SeqNum>) {
        let Some(head) = head else { return self.forget(state, at) };
        self.compare(state, at, head, None);
    }

    fn forget(&self, state: &mut State, at: usize) {
        let sidecar = &mut state.sidecars[at];
        if self.keeps(Rule::DropPages) {
            sidecar.pages.drop_all();
        }
        if self.keeps(Rule::ForgetHeldEvents) {
            sidecar.forget_held();
        }
        if self.keeps(Rule::HoldNoLateAnswers) {
            sidecar.hold_no_answers();
        }
        self.refresh(state, at);
    }

    fn take_note_of_rewrites(&self, state: &mut State, at: usize) {
        let is_rewritten = state.postgres.rewritten.is_some();
        let sidecar = &mut state.sidecars[at];
        sidecar.has_heard |= is_rewritten && sidecar.listener.notes.iter().all(|note| note.head.is_some());
    }

    /// The connection is lost; the sidecar does not know it yet.
    pub fn lose_listener(&self, state: &mut State, at: usize) {
        state.sidecars[at].listener.is_heard = false;
        state.sidecars[at].listener.notes.clear();
    }

    /// The sidecar notices that.
    pub fn notice(&self, state: &mut State, at: usize) {
        let sidecar = &mut state.sidecars[at];
        sidecar.listener.step = Step::Away;
        if self.keeps(Rule::KeepNothingWhileDeaf) {
            sidecar.pages.drop_all();
            sidecar.pages.hears = false;
        }
    }
}
