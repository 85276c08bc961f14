//! Clients that read: live streams (`subscription.rs`, `access/reader.rs`) and reads of the whole log (`scan.rs`).

use super::Protocol;
use super::promises::Promise;
use super::rules::Rule;
use super::state::{End, Event, Life, Page, SeqNum, Stage, State, Subscription};
use super::tail::Tail;

impl Protocol {
    /// `Reader::subscribe`: a stream begins where the client's log ends.
    pub fn subscribe(&self, state: &mut State, client: usize) {
        let (life, log, head) = (state.life(), state.streams[client].life, state.head());
        let (at, last) = (state.streams[client].at, state.streams[client].last);
        let Some(tail) = &state.sidecars[at].tail else {
            state.sidecars[at].tail = Some(Tail::new());
            return;
        };
        let Some(tail_life) = tail.life else { return };
        if log.is_none_or(|log| log == tail_life) && last <= tail.position {
            let stream = &mut state.streams[client];
            stream.life = Some(tail_life);
            stream.subscription = Some(Subscription { life: tail_life, pages: None, end: None, ask: None });
        } else if log.is_some_and(|log| log != life) || last > head || !self.keeps(Rule::AskBeforeRefusing) {
            self.drop_log(state, client);
        } else {
            self.refresh(state, at);
        }
    }

    /// `Subscription::next`: the end of the tail, or events of it, or a page.
    pub fn next(&self, state: &mut State, client: usize) {
        let (at, last) = (state.streams[client].at, state.streams[client].last);
        let Some(subscription) = &mut state.streams[client].subscription else { return };
        if let Some(end) = subscription.end {
            state.streams[client].subscription = None;
            if end == End::Reset {
                self.drop_log(state, client);
            }
            return;
        }
        let Some(tail) = &state.sidecars[at].tail else { return };
        let events: Vec<_> = tail.events.iter().filter(|event| event.seq_num > last).copied().collect();
        let follows = events.first().is_some_and(|first| first.seq_num == last + 1 || !self.keeps(Rule::WindowFollows));
        if follows {
            if state.sidecars[at].has_heard && events.iter().any(|event| state.is_outdated(*event)) {
                state.breaks(Promise::Rewritten);
            }
            self.deliver(state, client, &events);
        } else {
            let life = subscription.pages;
            let ask = self.ask(state, client, last, life);
            if let Some(subscription) = &mut state.streams[client].subscription {
                subscription.ask = Some(ask);
            }
        }
    }

    /// `Subscription::read_page`.
    pub fn deliver_page(&self, state: &mut State, client: usize, page: Page) {
        let at = state.streams[client].at;
        let Some(subscription) = &mut state.streams[client].subscription else { return };
        subscription.ask = None;
        subscription.pages = Some(page.life);
        if page.life == subscription.life || !self.keeps(Rule::StreamComparesLives) {
            self.deliver(state, client, &page.events);
        } else {
            state.streams[client].subscription = None;
            self.refresh(state, at);
            self.drop_log(state, client);
        }
    }

    fn deliver(&self, state: &mut State, client: usize, events: &[Event]) {
        for event in events {
            let stream = &mut state.streams[client];
            let follows = stream.life == Some(event.life) && event.seq_num == stream.last + 1;
            stream.last = event.seq_num;
            if !follows {
                state.breaks(Promise::Streams);
            }
        }
    }

    /// A client that is told that its log was reset drops it, and begins anew.
    fn drop_log(&self, state: &mut State, client: usize) {
        if state.streams[client].life == Some(state.life()) {
            state.breaks(Promise::Logs);
        }
        let stream = &mut state.streams[client];
        (stream.life, stream.last) = (None, 0);
    }

    /// A client loses its connection, and goes to the other sidecar.
    pub fn leave(&self, state: &mut State, client: usize) {
        let stream = &mut state.streams[client];
        let from = stream.at;
        stream.subscription = None;
        stream.at = 1 - from;
        state.sidecars[from].pages.leave(client);
    }

    /// `Scan::new`: a client begins to read the whole log.
    pub fn begin_scan(&self, state: &mut State, scan: usize) {
        let must_have = state.acknowledged();
        let reader = state.streams.len() + scan;
        let ask = self.ask(state, reader, 0, None);
        state.scans[scan].stage = Stage::Reading { ask, life: None, events: Vec::new(), must_have };
    }

    /// `Scan::next`.
    pub fn scan_page(&self, state: &mut State, scan: usize, page: Page) {
        let reader = state.streams.len() + scan;
        let Stage::Reading { ask, life, mut events, must_have } =
            std::mem::replace(&mut state.scans[scan].stage, Stage::Done)
        else {
            return;
        };
        let is_in = |now: Life, head: SeqNum| life.is_none_or(|life| life == now) && ask.after <= head;
        if !is_in(page.life, page.head) && self.keeps(Rule::ScanComparesLives) {
            // `Claims::catch_up`: Postgres decides whether the client has to begin anew.
            if is_in(state.life(), state.head()) {
                let ask = self.ask(state, reader, ask.after, None);
                state.scans[scan].stage = Stage::Reading { ask, life, events, must_have };
            }
            return;
        }
        events.extend(&page.events);
        if page.is_followed() {
            let after = events.last().map_or(0, |last| last.seq_num);
            let ask = self.ask(state, reader, after, Some(page.life));
            let life = Some(life.unwrap_or(page.life));
            state.scans[scan].stage = Stage::Reading { ask, life, events, must_have };
        } else {
            self.check_scan(state, life.unwrap_or(page.life), &events, must_have);
        }
    }

    fn check_scan(&self, state: &mut State, life: Life, events: &[Event], must_have: (Life, SeqNum)) {
        let is_one_log = events
            .iter()
            .enumerate()
            .all(|(place, event)| event.life == life && usize::from(event.seq_num) == place + 1);
        if !is_one_log {
            state.breaks(Promise::Lives);
        }
        if (life, events.len() as SeqNum) < must_have {
            state.breaks(Promise::Reads);
        }
    }
}
