//! Appending to logs: a queue of pushes, and the committer that turns what waits into transactions.

pub mod commit;
pub mod held;
pub mod outcome;
pub mod prune;
pub mod push;
pub mod queue;
