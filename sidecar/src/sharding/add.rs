//! `livestore-sidecar shards add`.

use clap::Args;

use super::connection::{NamedUrl, keywords};
use super::front::{self, Front, Known};
use super::session::Session;
use super::shard::{self, Exceptions, Place};
use super::{ShardsError, say};

#[derive(Debug, Args)]
pub struct Add {
    #[command(flatten)]
    front: Front,

    /// The database that becomes a shard, with its name, as its owner or a superuser: eu3=postgres://…. It must not have stores.
    #[arg(long, value_name = "NAME=URL")]
    shard: String,
}

impl Add {
    pub async fn carry_out(&self) -> Result<(), ShardsError> {
        let NamedUrl { name, url } = &NamedUrl::parse("--shard", &self.shard)?;
        let shard_address = self.front.address("--shard", url)?;
        let connection = keywords(&shard_address.config)?;
        let (front, state, _) = self.front.open().await?;
        front::begin_change(&front).await?;
        let shards = front::shards(&front).await?;
        if let Some(known) = shards.iter().find(|known| known.name == *name || known.connection == connection) {
            if known.name == *name && known.connection == connection {
                return say("Nothing to do: the front has this shard.");
            }
            return Err(refused(format!("the front has the shard {} already, with {}", known.name, known.connection)));
        }
        let number = shards.last().map_or(0, |last| last.number + 1);
        let slot_count: i32 = front.value("select livestore.slot_count()", &[]).await?;
        let mut place = Place { number, slot_count, slots: Vec::new() };

        let session = Session::open(format!("the shard {name}"), shard_address).await?;
        let database = &session.database;
        let found = shard::State::read(&session).await?.map_err(refused)?;
        let versions = front::ask_shard(&front, "select livestore._shard_version(0)", &[]).await?;
        let version: String = versions.first().map(|row| front.read(row, 0)).transpose()?.unwrap_or_default();
        let mut problems = Vec::new();
        if found.identity == state.identity {
            problems.push(format!("{database} and the front are the same database"));
        }
        let mark: String = front.value(&shard::mark("select k.seed from livestore.shared_keys k"), &[]).await?;
        match &found.place {
            Some(other) if *other != place => {
                let namesake = shards.iter().find(|known| known.number == other.number);
                let has_something = found.has_stores || !other.slots.is_empty();
                if has_something && namesake.is_none() && found.mark == mark && other.slot_count == slot_count {
                    // The front was restored to a state from before this shard was added.
                    place = other.clone();
                } else if let Some(known) = namesake
                    && self.front.identity_of(&front, known).await? == found.identity
                {
                    problems.push(format!(
                        "{database} is the shard {} of this front: shards set-address gives it another address",
                        known.name
                    ));
                } else if has_something {
                    // Without its row in livestore.shard, it would take pushes to all stores.
                    problems.push(format!(
                        "{database} is a shard already, number {} with {} slots, of another front, or has another key or number than this one knows: see livestore.shard there",
                        other.number,
                        other.slots.len()
                    ));
                } else if found.mark != mark || other.slot_count != slot_count {
                    problems.push(format!(
                        "{database} is a shard of another front already. If it is none any more, run \"delete from livestore.shard\" there"
                    ));
                }
                // Else an addition was interrupted before the front knew of it, and the number is another shard's now.
            }
            None if found.has_stores => problems.push(shard::has_stores(database)),
            _ => {}
        }
        if found.front_role.as_ref().is_some_and(|other| *other != mark) {
            problems.push(shard::has_another_role(database));
        }
        if found.version != version {
            problems.push(format!(
                "{database} has livestore_sync {}, and the other shards have {version}: run livestore-sidecar upgrade",
                found.version
            ));
        }
        for (role, group) in found.members.symmetric_difference(&state.members) {
            problems.push(format!(
                "the role {role} is a member of {group} on one of the front and {database} only: sidecars use the same roles everywhere"
            ));
        }
        if !problems.is_empty() {
            return Err(ShardsError::Refused(problems));
        }
        let (keys, password) = front::secrets(&front).await?;
        shard::make(&session, &place, &password, Some((&keys, &Exceptions::default()))).await?;
        let known = Known { name: name.clone(), number: place.number, connection };
        front
            .rows(
                "insert into livestore.shards (name, number, connection) values ($1, $2, $3)",
                &[&known.name, &known.number, &known.connection],
            )
            .await?;
        front.run("commit").await?;
        let number = place.number;
        if !place.slots.is_empty() {
            return say(&format!(
                "{name}: shard {number} again, with {} slots that the front says are elsewhere. livestore-sidecar shards move of each, from where the front says to {name}, corrects the front",
                place.slots.len()
            ));
        }
        say(&format!(
            "{name}: shard {number}, without slots. Create the hooks there that the other shards have (livestore.export_hooks() lists them). livestore-sidecar shards move gives it slots"
        ))
    }
}

fn refused(problem: String) -> ShardsError {
    ShardsError::Refused(vec![problem])
}
