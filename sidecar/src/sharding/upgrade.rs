//! `livestore-sidecar shards upgrade`.

use std::path::PathBuf;

use clap::Args;

use super::front::{self, State};
use super::session::Session;
use super::{ShardsError, say};
use crate::postgres::address;

#[derive(Debug, Args)]
pub struct Upgrade {
    /// The front, as a superuser.
    #[arg(long, env = "LIVESTORE_FRONT_URL", hide_env_values = true, value_name = "URL")]
    front: String,

    /// PEM file of the authority that signs the certificates of the databases. Without it, the authorities that this system trusts.
    #[arg(long, env = "LIVESTORE_DATABASE_ROOT_CERTIFICATE", value_name = "FILE")]
    database_root_certificate: Option<PathBuf>,
}

impl Upgrade {
    pub async fn carry_out(&self) -> Result<(), ShardsError> {
        let root_certificate = self.database_root_certificate.as_deref();
        let front = Session::open("the front".into(), address("--front", &self.front, root_certificate)?).await?;
        State::of_a_front(&front).await?;
        front::begin_change(&front).await?;
        let slot_count: i32 = front.value("select livestore.slot_count()", &[]).await?;
        front::make_functions(&front, slot_count).await?;
        front.run("commit").await?;
        say(concat!("The front has the functions of version ", env!("CARGO_PKG_VERSION"), "."))
    }
}
