//! `livestore-sidecar shards move`.
//!
//! The events are copied while clients push. Then nobody can write to the stores for a moment, in which the rest is copied and three
//! transactions are committed, one after the other:
//!
//! 1. The old shard gives the stores away, and notes the move (`livestore.shard_moves`). It keeps the events for readers of its commit log.
//! 2. The new shard has them.
//! 3. The front says so.
//!
//! So there is never a moment in which two shards take pushes to a store. If this is interrupted after the first of them, the new shard says
//! whether the second was committed, and the move is ended, or taken back: by this command, or by the next one.

mod source;
mod subject;
mod target;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::time::{sleep, timeout};

use self::source::Unfinished;
use self::subject::Slots;
pub use self::subject::Subject;
use self::target::Target;
use super::connection::NamedUrl;
use super::front::{self, Front, Known};
use super::session::Session;
use super::{ShardsError, say, shard};
use crate::postgres::ANSWER_TIMEOUT;

/// Fewer events than this are copied while nobody can write to the stores.
const FEW: u64 = 1000;

/// The number of times that the events of busy stores are copied before.
const ROUNDS: usize = 10;

/// The number of times that the locks are tried to get, and the pause between two.
const TRIES: usize = 13;
const PAUSE: Duration = Duration::from_millis(250);

/// Until the stores have their new place, nobody waits for longer than this. Nothing is moved then.
const BE_QUICK: &str = "set local statement_timeout = '20s'; set local idle_in_transaction_session_timeout = '10s'";

/// The number of times, and the pause between two, that the databases are asked how an interrupted move has ended.
const QUESTIONS: usize = 15;
const QUESTION: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Move {
    #[command(flatten)]
    front: Front,

    /// The shard that has the stores, with its name, as its owner or a superuser: eu1=postgres://….
    #[arg(long, value_name = "NAME=URL")]
    from: String,

    /// The shard that gets them, in the same way.
    #[arg(long, value_name = "NAME=URL")]
    to: String,

    /// Slots, one or a range: 17, or 16-31. Slots move one after the other.
    #[arg(
        long = "slot",
        value_name = "SLOTS",
        value_delimiter = ',',
        required_unless_present = "store",
        conflicts_with = "store"
    )]
    slots: Vec<Slots>,

    /// A single store. Sidecars read the list of such stores once a second: move slots if there are many.
    #[arg(long, value_name = "ID")]
    store: Option<String>,
}

/// A connection to each of the three databases, and what the front knows of the shards.
struct Databases {
    front: Session,
    from: Session,
    to: Session,
    from_known: Known,
    to_known: Known,
    slot_count: i32,
}

impl Move {
    pub async fn carry_out(&self) -> Result<(), ShardsError> {
        let (databases, advice) = self.open().await?;
        advice.iter().try_for_each(|line| say(line))?;
        self.mend(&databases, false).await?;
        let subjects = self.subjects(&databases).await?;
        if subjects.is_empty() {
            return say(&format!("Nothing to do: {} has all of it.", databases.to_known.name));
        }
        for subject in &subjects {
            let is_given_away = AtomicBool::new(false);
            if let Err(failure) = self.carry_over(&databases, subject, &is_given_away).await {
                // Its transactions end with the connections.
                drop(databases);
                if is_given_away.load(Ordering::Relaxed) {
                    self.find_out(&failure).await?;
                }
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Connects, and checks that these are the shards that the front knows. Also returns what there is to think about.
    async fn open(&self) -> Result<(Databases, Vec<String>), ShardsError> {
        let (from_url, to_url) = (NamedUrl::parse("--from", &self.from)?, NamedUrl::parse("--to", &self.to)?);
        let (front, _, shards) = self.front.open().await?;
        if from_url.name == to_url.name {
            return Err(refused("--from and --to are the same shard".into()));
        }
        let mut sessions = Vec::new();
        for (option, NamedUrl { name, url }) in [("--from", &from_url), ("--to", &to_url)] {
            let Some(known) = shards.iter().find(|known| known.name == *name) else {
                return Err(refused(format!("{option}: the front has no shard {name}")));
            };
            let session = Session::open(format!("the shard {name}"), self.front.address(option, url)?).await?;
            let state = shard::State::read(&session).await?.map_err(refused)?;
            front.begin().await?;
            let is_other = self.front.identity_of(&front, known).await? != state.identity;
            front.rollback().await?;
            // A copy of a shard has its number, too.
            if is_other || state.place.as_ref().is_none_or(|place| place.number != known.number) {
                return Err(refused(format!(
                    "{option}: the database of this URL is not the shard {name} of the front"
                )));
            }
            sessions.push((session, known.clone(), state));
        }
        let [(from, from_known, from_state), (to, to_known, to_state)] =
            <[_; 2]>::try_from(sessions).map_err(|_| refused("a move needs two shards".into()))?;
        if from_state.front_role != to_state.front_role {
            return Err(refused("--from and --to are shards of different fronts".into()));
        }
        if from_state.version != to_state.version {
            return Err(refused(format!(
                "{} has livestore_sync {}, and {} has {}: run livestore-sidecar upgrade on both",
                from.database, from_state.version, to.database, to_state.version
            )));
        }
        let mut advice = Vec::new();
        if from_state.hooks != to_state.hooks {
            advice.push(format!(
                "{} and {} differ in hooks, indexes or policies of their event logs: compare livestore.export_hooks() of both",
                from.database, to.database
            ));
        }
        if from_state.mark != to_state.mark {
            advice.push(format!(
                "{} and {} give different backend ids to new stores, since livestore.renew_backend_ids() was called at one of them: clients that know the backend id of a store that does not exist yet start over with it after the move",
                from.database, to.database
            ));
        }
        let slot_count = from_state.place.map_or(0, |place| place.slot_count);
        Ok((Databases { front, from, to, from_known, to_known, slot_count }, advice))
    }

    /// The slots, or the store, that are not there yet.
    async fn subjects(&self, databases: &Databases) -> Result<Vec<Subject>, ShardsError> {
        // A set: a slot that is named twice moves once.
        let mut slots = BTreeSet::new();
        for Slots { first, last } in &self.slots {
            for slot in *first..=*last {
                if slot >= databases.slot_count {
                    return Err(refused(format!(
                        "there is no slot {slot}: they are 0 to {}",
                        databases.slot_count - 1
                    )));
                }
                slots.insert(slot);
            }
        }
        let wanted = slots.into_iter().map(Subject::Slot).chain(self.store.iter().cloned().map(Subject::Store));
        let mut subjects = Vec::new();
        for subject in wanted {
            if self.has_to_move(databases, &subject).await? {
                subjects.push(subject);
            }
        }
        Ok(subjects)
    }

    /// Whether a subject is where it leaves, by all three databases. If the front is behind both shards, it is corrected.
    async fn has_to_move(&self, databases: &Databases, subject: &Subject) -> Result<bool, ShardsError> {
        let Databases { front, from, to, to_known, from_known, .. } = databases;
        from.begin_as_owner(false).await?;
        let is_at_from = subject.is_at(from).await?;
        let is_known = match subject {
            Subject::Slot(_) => true,
            Subject::Store(store_id) => source::knows(from, store_id).await?,
        };
        from.rollback().await?;
        to.begin_as_owner(false).await?;
        let is_at_to = subject.is_at(to).await?;
        to.rollback().await?;
        let place = front::place_of(front, subject).await?;
        let (old, new) = (&from_known.name, &to_known.name);
        match (is_at_from, is_at_to) {
            (true, true) => Err(refused(format!(
                "both {old} and {new} have the right to {subject}, and may have two logs of the same name: one of them was restored to an older state, or changed by hand. Take it from the wrong one (livestore.shard, livestore.shard_stores)"
            ))),
            (false, true) if place == Some(to_known.number) => Ok(false),
            (false, true) if place == Some(from_known.number) => {
                begin_change(databases).await?;
                front::assign(front, subject, to_known).await?;
                front.run("commit").await?;
                say(&format!("{subject} is at {new} already, and the front knows it now."))?;
                Ok(false)
            }
            (true, false) if place == Some(from_known.number) => {
                if !is_known {
                    return Err(refused(format!("there is no such store at {old}: {subject}")));
                }
                Ok(true)
            }
            (true, false) => Err(refused(format!(
                "{subject} is at {old}, and the front says that it is elsewhere: see livestore-sidecar shards status. A move from where the front says to {old} corrects the front"
            ))),
            (false, false) if place == Some(to_known.number) => Err(refused(format!(
                "{subject} is at neither shard, although the front says that it is at {new}: {new} may have been restored to a state from before the move. {old} keeps the events that it gave away for some days only: docs/scale.md, Move stores to another shard, says how to take the move back"
            ))),
            (false, false) => Err(refused(format!("{subject} is not at {old}: see livestore-sidecar shards status"))),
            (false, true) => Err(refused(format!(
                "{subject} is at {new}, and the front says that it is at neither shard: see livestore-sidecar shards status"
            ))),
        }
    }

    /// `is_given_away` becomes true where the first of the three commits may have begun.
    async fn carry_over(
        &self,
        databases: &Databases,
        subject: &Subject,
        is_given_away: &AtomicBool,
    ) -> Result<(), ShardsError> {
        let Databases { front, from, to, from_known, to_known, slot_count } = databases;
        begin_change(databases).await?;
        self.keep_last_slot(databases, subject).await?;
        let mut target = Target::begin(to, *slot_count).await?;
        for _ in 0..ROUNDS {
            begin(from, true).await?;
            let logs = source::logs(from, subject, *slot_count).await?;
            let missed = target.follow(from, subject, logs).await?;
            from.rollback().await?;
            if missed < FEW {
                break;
            }
        }
        self.lock(databases, subject).await?;
        let locked = Instant::now();
        let logs = source::logs(from, subject, *slot_count).await?;
        let stores = logs.len();
        target.follow(from, subject, logs).await?;
        let (id, token) = source::give_away(from, subject, *slot_count, &to_known.name).await?;
        target.take_over(from, subject, &from_known.name, &token).await?;
        is_given_away.store(true, Ordering::Relaxed);
        let committing = async {
            from.commit().await?;
            to.commit().await?;
            front::assign(front, subject, to_known).await?;
            front.run("commit").await?;
            let waited = locked.elapsed().as_secs_f64();
            end(from, id).await?;
            Ok(waited)
        };
        // Meanwhile the stores may be at no shard. A database that is lost must not keep them there for as long as its network may take to
        // say so.
        let committed = timeout(ANSWER_TIMEOUT, committing).await;
        let waited = committed.unwrap_or_else(|_| {
            Err(refused(format!("while {subject} was moved, one of the three databases has not answered in time")))
        })?;
        say(&format!(
            "{subject} is at {}: {stores} stores, {} events. Pushes to them waited for {waited:.2} s",
            to_known.name, target.events
        ))
    }

    /// The front reaches single stores of a shard by a slot that this shard has.
    async fn keep_last_slot(&self, databases: &Databases, subject: &Subject) -> Result<(), ShardsError> {
        let Databases { front, from_known, to_known, .. } = databases;
        let slots = front::slots(front).await?;
        let count = |shard: &Known| slots.iter().filter(|number| **number == Some(shard.number)).count();
        match subject {
            Subject::Slot(_) if count(from_known) == 1 && front::exceptions(front, from_known).await? > 0 => {
                Err(refused(format!(
                    "{subject} is the last one of {}, which also has single stores that were moved there: move these first",
                    from_known.name
                )))
            }
            Subject::Store(_) if count(to_known) == 0 => Err(refused(format!(
                "{} has no slot, and the front finds a shard by its slots: move one there first",
                to_known.name
            ))),
            _ => Ok(()),
        }
    }

    /// Locks the stores at both shards, and sees once more where the subject is. If somebody else holds a lock, everybody goes on, and it is
    /// tried again. From here on, a connection that is silent loses its locks.
    async fn lock(&self, databases: &Databases, subject: &Subject) -> Result<(), ShardsError> {
        let Databases { front, from, to, from_known, slot_count, .. } = databases;
        to.run("savepoint before_locks").await?;
        let mut tries = 0;
        loop {
            begin(from, false).await?;
            from.run(BE_QUICK).await?;
            let locked = match source::lock(from, subject, *slot_count).await {
                Ok(()) => {
                    to.run(BE_QUICK).await?;
                    source::lock_shard(to).await
                }
                failed => failed,
            };
            match locked {
                Ok(()) => break,
                Err(error) if error.is_busy() && tries < TRIES => tries += 1,
                Err(error) if error.is_busy() => {
                    return Err(refused(format!(
                        "transactions that write to stores of {subject}, or create stores, stay open: see pg_stat_activity at both shards. Nothing was moved ({error})"
                    )));
                }
                Err(error) => return Err(error),
            }
            from.rollback().await?;
            to.run("rollback to savepoint before_locks").await?;
            sleep(PAUSE).await;
        }
        // Another command may have been here, if this one was not the only one all the time.
        let is_as_before = subject.is_at(from).await?
            && !subject.is_at(to).await?
            && front::place_of(front, subject).await? == Some(from_known.number);
        if is_as_before { Ok(()) } else { Err(refused(format!("{subject} was moved by somebody else meanwhile"))) }
    }

    /// Ends what earlier moves from this shard have left, or takes it back. No other command does so meanwhile. `waits`: see
    /// [`source::unfinished`].
    async fn mend(&self, databases: &Databases, waits: bool) -> Result<(), ShardsError> {
        let Databases { front, from, to, from_known, to_known, .. } = databases;
        loop {
            begin_change(databases).await?;
            let unfinished = source::unfinished(from, waits).await?;
            let Some(unfinished) = unfinished.first() else { return front.rollback().await };
            let Unfinished { id, token, subject, shard } = unfinished;
            if *shard != to_known.name {
                return Err(refused(format!(
                    "a move of {subject} from {} to {shard} was interrupted, and its stores take no pushes: run livestore-sidecar shards move with {} --from {0}=… --to {shard}=… first",
                    from_known.name,
                    subject.argument()
                )));
            }
            to.begin_as_owner(false).await?;
            to.run(BE_QUICK).await?;
            // The transaction that was interrupted has it until it ends.
            source::lock_shard(to).await?;
            let arrived =
                "select exists (select from livestore.shard_moves m where m.is_arrival and m.token = $1::text::uuid)";
            if to.value(arrived, &[token]).await? {
                let has_it = subject.is_at(to).await?;
                to.rollback().await?;
                from.begin_as_owner(false).await?;
                let is_there = has_it && !subject.is_at(from).await?;
                from.rollback().await?;
                // If only the last step was missing, it may have moved on since, and the front knows better.
                if is_there && front::place_of(front, subject).await? == Some(from_known.number) {
                    front::assign(front, subject, to_known).await?;
                }
                front.run("commit").await?;
                end(from, *id).await?;
                say(&if is_there {
                    format!("The move of {subject} was interrupted, and has ended now: it is at {shard}.")
                } else {
                    format!(
                        "An earlier move of {subject} to {shard} was interrupted, and has ended now. It has moved on since."
                    )
                })?;
            } else {
                begin(from, false).await?;
                from.run(BE_QUICK).await?;
                source::take_back(from, unfinished).await?;
                from.commit().await?;
                to.rollback().await?;
                front.rollback().await?;
                say(&format!(
                    "The move of {subject} was interrupted, and is taken back: it is at {}.",
                    from_known.name
                ))?;
            }
        }
    }

    /// Finds out how far a move came that failed, and mends it, if it can.
    async fn find_out(&self, failure: &ShardsError) -> Result<(), ShardsError> {
        let mut question = 0;
        loop {
            let mended = match self.open().await {
                Ok((databases, _)) => self.mend(&databases, true).await,
                Err(error) => Err(error),
            };
            question += 1;
            match mended {
                Ok(()) => return Ok(()),
                Err(_) if question < QUESTIONS => sleep(QUESTION).await,
                Err(error) => {
                    return Err(refused(format!(
                        "{failure}\nlivestore-sidecar: it is not known how far the move came ({error}). Until this is known, its stores may take no pushes: run the same command again once all three databases can be reached"
                    )));
                }
            }
        }
    }
}

/// [`front::begin_change`], if both shards are where this command has found them. Another one may have given them an address meanwhile,
/// between two changes of this one, and their URLs here may lead to databases that are no shards any more.
async fn begin_change(databases: &Databases) -> Result<(), ShardsError> {
    let Databases { front, from_known, to_known, .. } = databases;
    front::begin_change(front).await?;
    let shards = front::shards(front).await?;
    match [from_known, to_known].into_iter().find(|known| !shards.contains(known)) {
        Some(Known { name, .. }) => Err(refused(format!(
            "the shard {name} was given another address meanwhile: run the same command again, with the URL that it has now"
        ))),
        None => Ok(()),
    }
}

/// As [`Session::begin_as_owner`], beside a transaction of the other shard that has done the same.
/// Row security must not hide anything that is copied.
async fn begin(from: &Session, is_snapshot: bool) -> Result<(), ShardsError> {
    let begun = match from.begin_as_owner(is_snapshot).await {
        Ok(()) => from.run("set local row_security = off").await,
        failed => failed,
    };
    begun.map_err(|error| match error {
        error if error.is_busy() => refused(
            "both shards are on one server, where the role cannot become a member of livestore_owner and livestore_hooks twice: grant both to it before, or connect as a superuser".into(),
        ),
        error => error,
    })
}

async fn end(from: &Session, id: i64) -> Result<(), ShardsError> {
    from.begin_as_owner(false).await?;
    source::finish(from, id).await?;
    from.commit().await
}

fn refused(problem: String) -> ShardsError {
    ShardsError::Refused(vec![problem])
}
