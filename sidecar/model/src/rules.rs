//! The rules of the protocol: each can be switched off, and then the checker finds a promise that is broken.

/// A rule, with the code that keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A push is acknowledged after its commit. `Session::settle` in `write/commit.rs`.
    AcknowledgeAfterCommit,
    /// A push that is in the log is accepted again, and not written twice. `Planner::is_in_log` in `extension/rules/src/plan.rs`.
    RecognizeRepeats,
    /// The same after the event was rewritten. `recognize` in `extension/src/append/rewritten.rs`.
    RecognizeRewritten,
    /// A push to another life of the log is refused. `Planner::decide` in `extension/rules/src/plan.rs`.
    RefusePushesOfAnotherLife,
    /// LISTEN is in effect before the heads are read. `Follower::listen`, and in the same order `Follower::poll`.
    ListenBeforeReading,
    /// After an interruption, tails are compared with Postgres. `Tails::resync`.
    Resync,
    /// That comparison includes the backend id. `Tails::resync`, `Tail::compare`.
    ResyncComparesLives,
    /// After an interruption, a tail drops the events that it holds. `Tails::resync`.
    ResyncDropsHeldEvents,
    /// The notifications of a connection that is given up are not ignored any more. `Session::disown_connection`.
    DisownConnection,
    /// After a commit whose outcome is unknown, the tail asks Postgres. `Session::commit_until_answered`.
    RefreshAfterUnknown,
    /// If something happened since a look at Postgres began, the tail looks once more. `Refresh::Again` in `tail.rs`.
    LookAgain,
    /// A tail takes only events that follow its position. `Tail::publish`.
    PublishFollows,
    /// A tail takes only events of its own life. `Tail::publish`.
    PublishComparesLives,
    /// A page moves a tail only to where it has all events, or the tail holds none. `Tail::apply`.
    ApplyFollows,
    /// A tail ends when the log has another backend id. `Tail::apply`.
    TailEnds,
    /// A page that was read before events were dropped is not held. `State::forgotten` in `tail.rs`.
    ApplyNothingOfBefore,
    /// A tail drops what it holds when events were rewritten. `Tail::forget`.
    ForgetHeldEvents,
    /// After that, events whose answer is late are not held. `Tails::changes`, `Tail::publish`.
    HoldNoLateAnswers,
    /// The same after an interruption. `Tails::resync` counts one of `Tails::changes`.
    ResyncHoldsNoLateAnswers,
    /// A window gives events only to those who have all before them. `Window::after`.
    WindowFollows,
    /// A stream ends when a page is of another life. `Subscription::read_page`.
    StreamComparesLives,
    /// A client is told that its log was reset only if Postgres says so. `Reader::subscribe`, `Claims::catch_up`.
    AskBeforeRefusing,
    /// All pages of a read are of one life. `check_cursor` in `scan.rs`.
    ScanComparesLives,
    /// A page is one snapshot. `READ_PAGE` in `page.rs`.
    OneSnapshot,
    /// A reader shares a read only if it asked before the read began. `Pages::read`.
    ShareOnlyLaterReads,
    /// The head is asked before a last page that is kept is used. `Pages::confirm`.
    ConfirmLastPages,
    /// The same for the first page of a reader. `Pages::known`, `Pages::confirm`.
    ConfirmFirstPages,
    /// Pages are dropped when events were rewritten. `Tails::forget`.
    DropPages,
    /// A page that was read before pages were dropped is not kept. `Pages::begin`.
    KeepNothingOfBefore,
    /// No page is kept while nobody tells of changes. `Pages::listen_to`.
    KeepNothingWhileDeaf,
}
