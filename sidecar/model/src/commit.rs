//! Pushes: the queue, the committer (`write/commit.rs`), and what Postgres does with them (`extension/rules/src/plan.rs`).

use super::Protocol;
use super::promises::Promise;
use super::rules::Rule;
use super::state::{Answer, Event, Push, Pusher, Pushing, State, Statement};

impl Protocol {
    /// A client pushes: it has the whole log.
    pub fn push(&self, state: &mut State, pusher: usize, at: usize) {
        let push = Push { life: state.life(), parent: state.head() };
        state.pushers[pusher] = Pusher::Waiting { at, push, is_repeated: false };
    }

    /// The committer takes a push that waits, and sends it to Postgres.
    pub fn send(&self, state: &mut State, at: usize, pusher: usize) {
        let Pusher::Waiting { push, .. } = state.pushers[pusher] else { return };
        let committer = &mut state.sidecars[at].committer;
        if !committer.is_connected {
            committer.is_connected = true;
            committer.connections += 1;
            committer.own = Some(committer.connections);
        }
        committer.pushing = Some(Pushing { pusher, push, answer: None, is_of_before: false });
        state.pushers[pusher] = Pusher::Pushing;
        if !self.keeps(Rule::AcknowledgeAfterCommit) {
            state.pushers[pusher] = Pusher::Acknowledged { life: push.life, seq_num: push.parent + 1 };
        }
    }

    /// Postgres carries out what a sidecar has sent.
    pub fn execute(&self, state: &mut State, at: usize) {
        let committer = &state.sidecars[at].committer;
        let Some(Pushing { pusher, push, .. }) = committer.pushing else { return };
        let source = (at, committer.connections);
        let answer = self.carry_out(state, Statement { pusher, push, source });
        if let Some(pushing) = &mut state.sidecars[at].committer.pushing {
            pushing.answer = Some(answer);
        }
    }

    /// Postgres carries out a statement whose connection is lost, or notices the loss.
    pub fn end_orphan(&self, state: &mut State, orphan: usize, is_carried_out: bool) {
        let statement = state.postgres.orphans.remove(orphan);
        if is_carried_out {
            self.carry_out(state, statement);
        }
    }

    /// One transaction: the rows of `livestore.push_batch`. The notification is sent with the commit.
    fn carry_out(&self, state: &mut State, Statement { pusher, push, source }: Statement) -> Answer {
        if push.life != state.life() && self.keeps(Rule::RefusePushesOfAnotherLife) {
            return Answer::OtherLife;
        }
        let (head, next) = (state.head(), push.parent + 1);
        let is_rewritten = state.postgres.rewritten == Some(next);
        let is_in_log = state.log().get(usize::from(push.parent)) == Some(&Some(pusher));
        let is_recognized =
            self.keeps(Rule::RecognizeRepeats) && (!is_rewritten || self.keeps(Rule::RecognizeRewritten));
        if is_in_log && is_recognized {
            return Answer::Repeated(head);
        }
        if push.parent != head {
            return Answer::ServerAhead(head);
        }
        if push.life != state.life() {
            state.breaks(Promise::Lives);
        }
        state.append(Some(pusher), Some(source));
        Answer::Appended
    }

    /// The committer has the answer: it tells the tail, and then the client.
    pub fn settle(&self, state: &mut State, at: usize) {
        let Some(Pushing { pusher, push, answer: Some(answer), is_of_before }) =
            state.sidecars[at].committer.pushing.take()
        else {
            return;
        };
        let (life, seq_num) = (push.life, push.parent + 1);
        let acknowledged = Pusher::Acknowledged { life, seq_num };
        state.pushers[pusher] = match answer {
            Answer::Appended => {
                self.publish(state, at, Event { life, seq_num, is_original: true }, is_of_before);
                acknowledged
            }
            Answer::Repeated(head) => {
                self.compare(state, at, head, None);
                acknowledged
            }
            Answer::ServerAhead(head) => {
                self.compare(state, at, head, None);
                Pusher::Waiting { at, push: Push { life, parent: head }, is_repeated: false }
            }
            Answer::OtherLife => {
                self.refresh(state, at);
                Pusher::Dropped
            }
        };
    }

    /// The connection of the committer is lost. The statement may still be carried out.
    pub fn lose_commit(&self, state: &mut State, at: usize) {
        let committer = &mut state.sidecars[at].committer;
        committer.is_connected = false;
        if self.keeps(Rule::DisownConnection) {
            committer.own = None;
        }
        let source = (at, committer.connections);
        let Some(Pushing { pusher, push, answer, .. }) = committer.pushing.take() else { return };
        if answer.is_none() {
            state.postgres.orphans.push(Statement { pusher, push, source });
        }
        if let Pusher::Pushing = state.pushers[pusher] {
            state.pushers[pusher] = Pusher::Waiting { at, push, is_repeated: true };
        }
        if self.keeps(Rule::RefreshAfterUnknown) {
            self.refresh(state, at);
        }
    }
}
