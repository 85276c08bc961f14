//! `livestore-sidecar shards set-address`.

use std::path::PathBuf;

use clap::Args;

use super::connection::{NamedUrl, keywords};
use super::front::{self, Known, State};
use super::session::Session;
use super::{ShardsError, say, shard};
use crate::postgres::address;

#[derive(Debug, Args)]
pub struct SetAddress {
    /// The front, as a superuser.
    #[arg(long, env = "LIVESTORE_FRONT_URL", hide_env_values = true, value_name = "URL")]
    front: String,

    /// The shard with its new URL, as its owner or a superuser: eu1=postgres://…. Its database must not take pushes at the old address any more.
    #[arg(long, value_name = "NAME=URL")]
    shard: NamedUrl,

    /// PEM file of the authority that signs the certificates of the databases. Without it, the authorities that this system trusts.
    #[arg(long, env = "LIVESTORE_DATABASE_ROOT_CERTIFICATE", value_name = "FILE")]
    database_root_certificate: Option<PathBuf>,
}

impl SetAddress {
    pub async fn carry_out(&self) -> Result<(), ShardsError> {
        let root_certificate = self.database_root_certificate.as_deref();
        let NamedUrl { name, url } = &self.shard;
        let shard_address = address("--shard", url, root_certificate)?;
        let connection = keywords(&shard_address.config)?;
        let front = Session::open("the front".into(), address("--front", &self.front, root_certificate)?).await?;
        State::of_a_front(&front).await?;
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
        if found.mark != mark || found.place.is_none_or(|place| place.number != known.number) {
            return Err(refused(format!("--shard: the database of this URL is not the shard {name} of the front")));
        }
        let moved = Known { connection, ..known.clone() };
        front::readdress(&front, &moved).await?;
        if front::identity_of(&front, &self.front, root_certificate, &moved).await? != found.identity {
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
