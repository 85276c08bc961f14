//! `livestore-sidecar shards set-address`.

use clap::Args;

use super::connection::{NamedUrl, keywords};
use super::front::{self, Front, Known};
use super::session::Session;
use super::{ShardsError, say, shard};

#[derive(Debug, Args)]
pub struct SetAddress {
    #[command(flatten)]
    front: Front,

    /// The shard with its new URL, as its owner or a superuser: eu1=postgres://…. Its database must not take pushes at the old address any more.
    #[arg(long, value_name = "NAME=URL")]
    shard: String,
}

impl SetAddress {
    pub async fn carry_out(&self) -> Result<(), ShardsError> {
        let NamedUrl { name, url } = &NamedUrl::parse("--shard", &self.shard)?;
        let shard_address = self.front.address("--shard", url)?;
        let connection = keywords(&shard_address.config)?;
        let (front, ..) = self.front.open().await?;
        front::begin_change(&front).await?;
        let shards = front::shards(&front).await?;
        let Some(known) = shards.iter().find(|known| known.name == *name) else {
            return Err(refused(format!("--shard: the front has no shard {name}")));
        };
        if known.connection == connection {
            return say("Nothing to do: the front has this address.");
        }
        if let Some(other) = shards.iter().find(|known| known.connection == connection) {
            return Err(refused(format!("--shard: this is the address of the shard {}", other.name)));
        }
        let session = Session::open(format!("the shard {name}"), shard_address).await?;
        let found = shard::State::read(&session).await?.map_err(refused)?;
        let mark: String = front.value(&shard::mark("select k.seed from livestore.shared_keys k"), &[]).await?;
        // The key of a shard that was restored may be another one since (livestore.renew_backend_ids).
        let its_mark = found.front_role.as_ref().filter(|mark| !mark.is_empty()).unwrap_or(&found.mark);
        if *its_mark != mark || found.place.is_none_or(|place| place.number != known.number) {
            return Err(refused(format!("--shard: the database of this URL is not the shard {name} of the front")));
        }
        let moved = Known { connection, ..known.clone() };
        front::readdress(&front, &moved).await?;
        if self.front.identity_of(&front, &moved).await? != found.identity {
            return Err(refused(format!(
                "--shard: from the front, this address leads to another database than from here: {}",
                moved.connection
            )));
        }
        front.run("commit").await?;
        say(&format!("The front finds {name} by {} now. Sidecars follow within seconds.", moved.connection))
    }
}

fn refused(problem: String) -> ShardsError {
    ShardsError::Refused(vec![problem])
}
