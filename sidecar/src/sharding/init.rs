//! `livestore-sidecar shards init`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;

use super::connection::{NamedUrl, keywords};
use super::front::{self, Known, Plan};
use super::session::Session;
use super::shard::{self, Exceptions, Keys, Place};
use super::{ShardsError, say};
use crate::postgres::address;

/// From as many pins on, the operator is told what they cost.
const MANY_PINS: usize = 1000;

#[derive(Debug, Args)]
pub struct Init {
    /// The database that becomes the front, as a superuser: postgres://postgres:…@host:port/database. It must not have livestore_sync, and its
    /// server needs PL/Proxy.
    #[arg(long, env = "LIVESTORE_FRONT_URL", hide_env_values = true, value_name = "URL")]
    front: String,

    /// A database that becomes a shard, with its name, as its owner or a superuser: eu1=postgres://…. Its host and port are also those by which
    /// the front and the sidecars reach it. Only the first one may have stores.
    #[arg(long = "shard", required = true, value_name = "NAME=URL")]
    shards: Vec<String>,

    /// Number of slots that stores are spread over, a power of two up to 4096. It cannot be changed later.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(i32).range(1..=4096))]
    slots: i32,

    /// PEM file of the authority that signs the certificates of the databases. Without it, the authorities that this system trusts.
    #[arg(long, env = "LIVESTORE_DATABASE_ROOT_CERTIFICATE", value_name = "FILE")]
    database_root_certificate: Option<PathBuf>,
}

/// A database that is to be a shard, with the place that it will have.
struct Candidate {
    session: Session,
    known: Known,
    place: Place,
}

impl Init {
    /// Checks everything, then makes the shards one by one, and the front last: as long as it does not exist, this can be repeated.
    pub async fn carry_out(&self) -> Result<(), ShardsError> {
        let slots = self.slots();
        let candidates = self.candidates(&slots).await?;
        let root_certificate = self.database_root_certificate.as_deref();
        let front = Session::open("the front".into(), address("--front", &self.front, root_certificate)?).await?;
        let members = match check(&front, &candidates).await? {
            Checked::IsDone => return say("Nothing to do: the front has these shards."),
            Checked::Problems(problems) => return Err(ShardsError::Refused(problems)),
            Checked::Good { members, advice } => {
                advice.iter().try_for_each(|line| say(line))?;
                members
            }
        };
        self.make(&front, &candidates, &slots, &members).await
    }

    /// The number of the shard of each slot: as many in a row for each shard.
    fn slots(&self) -> Vec<i32> {
        let count = i32::try_from(self.shards.len()).unwrap_or(i32::MAX);
        (0..self.slots).map(|slot| slot.saturating_mul(count) / self.slots).collect()
    }

    async fn candidates(&self, slots: &[i32]) -> Result<Vec<Candidate>, ShardsError> {
        let shards =
            self.shards.iter().map(|shard| NamedUrl::parse("--shard", shard)).collect::<Result<Vec<_>, _>>()?;
        let names: BTreeSet<&str> = shards.iter().map(|shard| &*shard.name).collect();
        if self.slots & (self.slots - 1) != 0 {
            return Err(ShardsError::Settings("--slots has to be a power of two".into()));
        }
        if names.len() < shards.len() {
            return Err(ShardsError::Settings("--shard: two shards have the same name".into()));
        }
        if shards.len() > slots.len() {
            return Err(ShardsError::Settings("--slots: there are fewer slots than shards".into()));
        }
        let mut candidates = Vec::new();
        for (NamedUrl { name, url }, number) in shards.iter().zip(0..) {
            let address = address("--shard", url, self.database_root_certificate.as_deref())?;
            let connection = keywords(&address.config)?;
            let own = slots.iter().zip(0..).filter(|(shard, _)| **shard == number).map(|(_, slot)| slot).collect();
            candidates.push(Candidate {
                session: Session::open(format!("the shard {name}"), address).await?,
                known: Known { name: name.clone(), number, connection },
                place: Place { number, slot_count: self.slots, slots: own },
            });
        }
        Ok(candidates)
    }

    async fn make(
        &self,
        front: &Session,
        candidates: &[Candidate],
        slots: &[i32],
        members: &BTreeSet<(String, String)>,
    ) -> Result<(), ShardsError> {
        let password: String =
            front.value("select replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')", &[]).await?;
        let mut shared: Option<(Keys, Exceptions)> = None;
        for Candidate { session, known, place } in candidates {
            let given = shared.as_ref().map(|(keys, exceptions)| (keys, exceptions));
            let made = shard::make(session, place, &password, given).await?;
            say(&format!("{}: {} of {} slots", known.name, place.slots.len(), place.slot_count))?;
            shared.get_or_insert(made);
        }
        let Some((keys, exceptions)) = shared else { return Ok(()) };
        let pins = exceptions.pins.len();
        if pins > 0 {
            say(&format!("{pins} stores of the first shard stay there, although their slots are elsewhere"))?;
        }
        if pins > MANY_PINS {
            say("Each sidecar reads their list once a second.")?;
        }
        let shards: Vec<Known> = candidates.iter().map(|candidate| candidate.known.clone()).collect();
        let plan = Plan { shards: &shards, slots, keys: &keys, pins: &exceptions.pins, password: &password, members };
        front::make(front, &plan).await?;
        say(
            "The front is made, and reaches every shard.\n\nFrom here on, sidecars connect to it: livestore-sidecar --shards --database-url postgres://…@front/…",
        )
    }
}

/// The result of the checks.
enum Checked {
    /// The front is there, with these shards.
    IsDone,
    Problems(Vec<String>),
    /// The roles that the front gets, and what to think about.
    Good {
        members: BTreeSet<(String, String)>,
        advice: Vec<String>,
    },
}

/// Looks at all databases, and changes none.
async fn check(front: &Session, candidates: &[Candidate]) -> Result<Checked, ShardsError> {
    let (mut problems, mut advice) = (Vec::new(), Vec::new());
    let front = front::State::read(front).await?.map_err(|problem| problems.push(problem)).ok();
    if let Some(shards) = front.as_ref().and_then(|front| front.shards.as_ref()) {
        if shards.iter().eq(candidates.iter().map(|candidate| &candidate.known)) {
            return Ok(Checked::IsDone);
        }
        let names: Vec<&str> = shards.iter().map(|shard| &*shard.name).collect();
        problems.push(format!(
            "the front has other shards already: {}. livestore-sidecar shards add adds one",
            names.join(", ")
        ));
        return Ok(Checked::Problems(problems));
    }
    let mut states = Vec::new();
    for candidate in candidates {
        match shard::State::read(&candidate.session).await? {
            Ok(state) => states.push((candidate, state)),
            Err(problem) => problems.push(problem),
        }
    }
    let mut identities: BTreeMap<&str, &str> = front.iter().map(|front| (&*front.identity, "the front")).collect();
    for (candidate, state) in &states {
        let database = &*candidate.session.database;
        if let Some(other) = identities.insert(&state.identity, database) {
            problems.push(format!("{database} and {other} are the same database"));
        }
        match &state.place {
            Some(place) if *place != candidate.place => problems.push(format!(
                "{database} is a shard already, number {} with {} of {} slots: it belongs to another front, or was made with other arguments",
                place.number,
                place.slots.len(),
                place.slot_count
            )),
            None if state.has_stores && candidate.place.number > 0 => problems.push(shard::has_stores(database)),
            _ => {}
        }
    }
    let Some(((first, first_state), others)) = states.split_first() else {
        return Ok(Checked::Problems(problems));
    };
    for (candidate, state) in &states {
        if state.front_role.as_ref().is_some_and(|mark| *mark != first_state.mark) {
            problems.push(shard::has_another_role(&candidate.session.database));
        }
    }
    let first_name = &first.session.database;
    for (candidate, state) in others {
        let database = &candidate.session.database;
        if state.version != first_state.version {
            problems.push(format!(
                "{database} has livestore_sync {}, and {first_name} has {}: run livestore-sidecar upgrade on both",
                state.version, first_state.version
            ));
        }
        for (role, group) in state.members.symmetric_difference(&first_state.members) {
            problems.push(format!(
                "the role {role} is a member of {group} on one of {first_name} and {database} only: sidecars use the same roles on all shards"
            ));
        }
        if state.hooks != first_state.hooks {
            advice.push(format!(
                "{database} and {first_name} differ in hooks, indexes or policies of their event logs: compare livestore.export_hooks() of both"
            ));
        }
    }
    let members = first_state.members.clone();
    if let Some(front) = &front {
        let missing: BTreeSet<&str> =
            members.iter().map(|(role, _)| &**role).filter(|role| !front.roles.contains(*role)).collect();
        problems.extend(missing.into_iter().map(|role| {
            format!("the role {role} of the shards does not exist at the front: create role {role} login password '…', the same as on the shards")
        }));
    }
    Ok(if problems.is_empty() { Checked::Good { members, advice } } else { Checked::Problems(problems) })
}
