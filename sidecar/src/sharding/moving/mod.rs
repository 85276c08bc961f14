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

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::time::sleep;

use self::source::Unfinished;
use self::subject::Slots;
pub use self::subject::Subject;
use self::target::Target;
use super::connection::NamedUrl;
use super::front::{self, Known};
use super::session::Session;
use super::{ShardsError, say, shard};
use crate::postgres::address;

/// Fewer events than this are copied while nobody can write to the stores.
const FEW: u64 = 1000;

/// The number of times that the events of busy stores are copied before.
const ROUNDS: usize = 10;

/// The number of times that the locks are tried to get, and the pause between two.
const TRIES: usize = 40;
const PAUSE: Duration = Duration::from_millis(250);

/// The number of times, and the pause between two, that the databases are asked how an interrupted move has ended.
const QUESTIONS: usize = 15;
const QUESTION: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Move {
    /// The front, as a superuser.
    #[arg(long, env = "LIVESTORE_FRONT_URL", hide_env_values = true, value_name = "URL")]
    front: String,

    /// The shard that has the stores, with its name, as its owner or a superuser: eu1=postgres://….
    #[arg(long, value_name = "NAME=URL")]
    from: NamedUrl,

    /// The shard that gets them, in the same way.
    #[arg(long, value_name = "NAME=URL")]
    to: NamedUrl,

    /// Slots, one or a range: 17, or 16-31. Each of them moves for itself, one after the other.
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

    /// PEM file of the authority that signs the certificates of the databases. Without it, the authorities that this system trusts.
    #[arg(long, env = "LIVESTORE_DATABASE_ROOT_CERTIFICATE", value_name = "FILE")]
    database_root_certificate: Option<PathBuf>,
}

/// A connection to each of the three databases, and what the front knows of the shards.
struct Databases {
    front: Session,
    from: Session,
    to: Session,
    from_known: Known,
    to_known: Known,
}

impl Move {
    pub async fn carry_out(&self) -> Result<(), ShardsError> {
        let databases = self.open().await?;
        self.mend(&databases).await?;
        let subjects = self.subjects(&databases).await?;
        if subjects.is_empty() {
            return say(&format!("Nothing to do: {} has all of it.", self.to.name));
        }
        for subject in &subjects {
            if let Err(failure) = self.carry_over(&databases, subject).await {
                // Its transactions end with the connections.
                drop(databases);
                self.find_out(&failure).await?;
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Connects, and checks that these are the shards that the front knows.
    async fn open(&self) -> Result<Databases, ShardsError> {
        let root_certificate = self.database_root_certificate.as_deref();
        let front = Session::open("the front".into(), address("--front", &self.front, root_certificate)?).await?;
        let state = front::State::read(&front).await?.map_err(refused)?;
        let Some(shards) = state.shards else {
            return Err(refused("the front is none yet: run livestore-sidecar shards init".into()));
        };
        if self.from.name == self.to.name {
            return Err(refused("--from and --to are the same shard".into()));
        }
        let mut sessions = Vec::new();
        for (option, NamedUrl { name, url }) in [("--from", &self.from), ("--to", &self.to)] {
            let Some(known) = shards.iter().find(|known| known.name == *name) else {
                return Err(refused(format!("{option}: the front has no shard {name}")));
            };
            let session = Session::open(format!("the shard {name}"), address(option, url, root_certificate)?).await?;
            let state = shard::State::read(&session).await?.map_err(refused)?;
            if state.place.as_ref().is_none_or(|place| place.number != known.number) {
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
        if from_state.hooks != to_state.hooks {
            say(&format!(
                "{} and {} differ in hooks, indexes or policies of their event logs: compare livestore.export_hooks() of both",
                from.database, to.database
            ))?;
        }
        Ok(Databases { front, from, to, from_known, to_known })
    }

    /// The slots, or the store, that are not there yet.
    async fn subjects(&self, databases: &Databases) -> Result<Vec<Subject>, ShardsError> {
        let Databases { front, from, to, to_known, from_known } = databases;
        let places = front::slots(front).await?;
        let mut subjects: Vec<Subject> = Vec::new();
        for Slots { first, last } in &self.slots {
            subjects.extend((*first..=*last).map(Subject::Slot));
        }
        subjects.extend(self.store.iter().cloned().map(Subject::Store));
        let mut wanted = Vec::new();
        for subject in subjects {
            if let Subject::Slot(slot) = subject {
                match usize::try_from(slot).ok().and_then(|slot| places.get(slot)) {
                    None => {
                        return Err(refused(format!("there is no slot {slot}: they are 0 to {}", places.len() - 1)));
                    }
                    Some(number) if *number == to_known.number => continue,
                    Some(number) if *number != from_known.number => {
                        return Err(refused(format!(
                            "slot {slot} is not at {}: see livestore-sidecar shards status",
                            from_known.name
                        )));
                    }
                    Some(_) => {}
                }
            } else if is_at(&subject, to).await? {
                continue;
            } else if !is_at(&subject, from).await? {
                return Err(refused(format!("{subject} is not at {}", from_known.name)));
            } else if !places.contains(&to_known.number) {
                return Err(refused(format!(
                    "{} has no slot, and the front finds a shard by its slots: move one there first",
                    to_known.name
                )));
            }
            wanted.push(subject);
        }
        Ok(wanted)
    }

    async fn carry_over(&self, databases: &Databases, subject: &Subject) -> Result<(), ShardsError> {
        let Databases { front, from, to, to_known, .. } = databases;
        front::begin_change(front).await?;
        let mut target = Target::begin(to).await?;
        for _ in 0..ROUNDS {
            from.begin_long(true).await?;
            join_roles(from).await?;
            let logs = source::logs(from, subject).await?;
            let missed = target.follow(from, logs).await?;
            from.rollback().await?;
            if missed < FEW {
                break;
            }
        }
        self.lock(databases, subject).await?;
        let locked = Instant::now();
        let logs = source::logs(from, subject).await?;
        let stores = logs.len();
        target.follow(from, logs).await?;
        target.take_over(from, subject).await?;
        let id = source::give_away(from, subject, &to_known.name).await?;
        from.commit().await?;
        to.commit().await?;
        front::assign(front, subject, to_known).await?;
        front.run("commit").await?;
        let waited = locked.elapsed().as_secs_f64();
        end(from, id).await?;
        say(&format!(
            "{subject} is at {}: {stores} stores, {} events. Pushes to them waited for {waited:.2} s",
            to_known.name, target.events
        ))
    }

    /// Locks the stores at both shards. If somebody else holds one, everybody goes on, and it is tried again.
    async fn lock(&self, Databases { from, to, .. }: &Databases, subject: &Subject) -> Result<(), ShardsError> {
        to.run("savepoint before_locks").await?;
        let mut tries = 0;
        loop {
            from.begin_long(false).await?;
            join_roles(from).await?;
            let locked = match source::lock(from, subject).await {
                Ok(()) => source::lock_shard(to).await,
                failed => failed,
            };
            match locked {
                Err(error) if error.is_busy() && tries < TRIES => tries += 1,
                Err(error) if error.is_busy() => {
                    return Err(refused(format!(
                        "transactions that write to stores of {subject}, or create stores, stay open: see pg_stat_activity at both shards. Nothing was moved ({error})"
                    )));
                }
                done => return done,
            }
            from.rollback().await?;
            to.run("rollback to savepoint before_locks").await?;
            sleep(PAUSE).await;
        }
    }

    /// Ends what an earlier move from this shard has left, or takes it back.
    async fn mend(&self, databases: &Databases) -> Result<bool, ShardsError> {
        let Databases { front, from, to, to_known, .. } = databases;
        let unfinished = source::unfinished(from).await?;
        for unfinished in &unfinished {
            let Unfinished { id, subject, shard } = unfinished;
            if *shard != to_known.name {
                return Err(refused(format!(
                    "a move of {subject} from {} to {shard} was interrupted, and its stores take no pushes: run livestore-sidecar shards move with {} --from {0}=… --to {shard}=… first",
                    self.from.name,
                    subject.argument()
                )));
            }
            front::begin_change(front).await?;
            to.begin_long(false).await?;
            to.join_roles().await?;
            // The transaction that was interrupted has it until it ends.
            source::lock_shard(to).await?;
            let has_ended = subject.is_at(to).await?;
            if has_ended {
                to.rollback().await?;
                front::assign(front, subject, to_known).await?;
                front.run("commit").await?;
                end(from, *id).await?;
                say(&format!("The move of {subject} was interrupted, and has ended now: it is at {shard}."))?;
            } else {
                from.begin_long(false).await?;
                join_roles(from).await?;
                source::take_back(from, unfinished).await?;
                from.commit().await?;
                to.rollback().await?;
                front.rollback().await?;
                say(&format!(
                    "The move of {subject} was interrupted, and is taken back: it is at {}.",
                    self.from.name
                ))?;
            }
        }
        Ok(!unfinished.is_empty())
    }

    /// Finds out how far a move came that failed, and mends it, if it can.
    async fn find_out(&self, failure: &ShardsError) -> Result<(), ShardsError> {
        let mut question = 0;
        loop {
            let mended = match self.open().await {
                Ok(databases) => self.mend(&databases).await,
                Err(error) => Err(error),
            };
            question += 1;
            match mended {
                Ok(_) => return Ok(()),
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

/// As [`Subject::is_at`], in a transaction of its own.
async fn is_at(subject: &Subject, session: &Session) -> Result<bool, ShardsError> {
    session.begin().await?;
    session.join_roles().await?;
    let answer = subject.is_at(session).await?;
    session.rollback().await?;
    Ok(answer)
}

/// As [`Session::join_roles`], beside a transaction of the other shard that has done the same.
async fn join_roles(from: &Session) -> Result<(), ShardsError> {
    from.join_roles().await.map_err(|error| match error {
        error if error.is_busy() => refused(
            "both shards are on one server, where the role cannot become a member of livestore_owner and livestore_hooks twice: grant both to it before, or connect as a superuser".into(),
        ),
        error => error,
    })
}

async fn end(from: &Session, id: i64) -> Result<(), ShardsError> {
    from.begin_long(false).await?;
    from.join_roles().await?;
    source::finish(from, id).await?;
    from.commit().await
}

fn refused(problem: String) -> ShardsError {
    ShardsError::Refused(vec![problem])
}
