//! The reactions of a device to the answers of its client.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{Happened, InFlight, LONGEST_RETRY, Phase, REOPEN, RETRY, Running, close, give_up};
use crate::clients::dialect::{Dialect, is_reset, outcome};
use crate::history::{Outcome, Stream};

impl Running {
    pub(super) fn take(&mut self, what: Happened) {
        match what {
            Happened::Opened(number, client) if self.opening == Some(number) => {
                self.opening = None;
                self.losses = 0;
                self.client = Some((number, client));
                self.next_look = Instant::now() + Duration::from_secs(2);
            }
            Happened::Opened(_, client) => close(client),
            Happened::Heard(number, message) => {
                if self.following.as_ref().is_some_and(|following| following.number == number) {
                    self.hear(&message);
                }
            }
            Happened::Pushed(number, answer) => {
                if let Some(push) = self.in_flight.take_if(|push| push.number == number) {
                    self.settle(&push, answer);
                }
            }
            Happened::HasRead(phase, failure) => {
                self.is_reading = false;
                // While there are faults, one that fails says nothing.
                if phase == Phase::Read && !self.has_read() {
                    self.calm_read = Some(failure.map_or(Ok(()), Err));
                }
            }
            Happened::IsConnected(number, false)
                if self.client.as_ref().is_some_and(|(client, _)| *client == number) =>
            {
                self.replace("its connection is lost");
            }
            Happened::IsConnected(..) => {}
        }
    }

    pub(super) fn hear(&mut self, message: &Value) {
        let Some(following) = &mut self.following else { return };
        if message["event"] == "page" {
            let backend_id = message["value"]["backendId"].as_str();
            if let (Some(known), Some(other)) = (&self.backend_id, backend_id)
                && known != other
            {
                // A client without a cursor is not told that its log was reset. Events that it has pushed, and not yet read, would go into the next log.
                if following.record.cursor == 0 && following.record.events.is_empty() {
                    following.record.is_told_of_reset = true;
                } else {
                    following.record.is_of_another_log = true;
                    following.page(message, self.device.recorder.now());
                }
                return self.start_over("a page of another log");
            }
            self.backend_id = backend_id.map(str::to_owned);
            self.has_history = true;
            let before = self.pending.rebases();
            for placed in following.page(message, self.device.recorder.now()) {
                self.pending.hear(placed);
            }
            if self.pending.rebases() > before {
                self.waits_for_pull = false;
                self.next_push = Instant::now();
            }
            self.device.status.head.store(self.pending.head(), Ordering::Relaxed);
        } else if is_reset(&message["error"]) {
            following.record.is_told_of_reset = true;
            self.start_over(&message.to_string());
        } else {
            self.losses += 1;
            if self.losses >= self.device.dialect.losses_of_a_life() {
                self.replace(&message.to_string());
            } else {
                self.stop_following(&message.to_string());
                self.next_pull = Instant::now() + REOPEN;
            }
        }
    }

    pub(super) fn settle(&mut self, push: &InFlight, answer: Result<(), Value>) {
        let is_same = push.rebases == self.pending.rebases();
        let outcome = answer.as_ref().map_or_else(outcome, |()| Outcome::Ok);
        self.device.recorder.push_ends(&push.ticket, outcome);
        match outcome {
            Outcome::Ok => {
                self.pending.acknowledge(&push.batch);
                self.retry = RETRY;
            }
            // After this answer, these wait for the events that they lack, for ever; others repeat the push until those have come.
            Outcome::ServerAhead
                if is_same && matches!(self.device.dialect, Dialect::CfWs | Dialect::CfHttp | Dialect::Cf03) =>
            {
                self.waits_for_pull = true;
            }
            Outcome::ServerAhead | Outcome::Unknown if is_same => self.retry_later(),
            Outcome::ServerAhead | Outcome::Unknown => self.retry = RETRY,
            Outcome::Reset => self.start_over("a push was told of a reset"),
        }
    }

    pub(super) fn retry_later(&mut self) {
        self.next_push = Instant::now() + self.retry;
        self.retry = (self.retry * 2).min(LONGEST_RETRY);
    }

    pub(super) fn give_up_push(&mut self) {
        if let Some(push) = self.in_flight.take() {
            self.device.recorder.push_ends(&push.ticket, Outcome::Unknown);
            self.retry_later();
            if let Some((_, client)) = &self.client
                && self.device.dialect.is_http()
            {
                give_up(client.clone());
            }
        }
    }

    pub(super) fn stop_following(&mut self, why: &str) {
        if let Some(following) = self.following.take() {
            let record = Stream { end: self.device.recorder.now(), ending: why.into(), ..following.record };
            self.device.recorder.stream(&self.device.store.name, record);
        }
    }

    pub(super) fn drop_client(&mut self, why: &str) {
        self.stop_following(why);
        self.give_up_push();
        self.opening = None;
        self.has_history = false;
        if let Some((_, client)) = self.client.take() {
            close(client);
        }
    }

    /// The app is reloaded: a new client, with what the old one had on disk.
    pub(super) fn replace(&mut self, why: &str) {
        self.drop_client(why);
        self.waits_for_pull = false;
        self.next_pull = Instant::now() + REOPEN;
    }

    pub(super) fn start_over(&mut self, why: &str) {
        self.drop_client(why);
        self.pending.start_over();
        self.device.status.head.store(0, Ordering::Relaxed);
        self.waits_for_pull = false;
        self.proof = None;
        self.backend_id = None;
        self.since = self.device.recorder.now();
    }
}
