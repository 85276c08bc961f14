//! `livestore-sidecar shards upgrade`.

use clap::Args;

use super::front::{self, Front};
use super::{ShardsError, say};

#[derive(Debug, Args)]
pub struct Upgrade {
    #[command(flatten)]
    front: Front,
}

impl Upgrade {
    pub async fn carry_out(&self) -> Result<(), ShardsError> {
        let (front, ..) = self.front.open().await?;
        front::begin_change(&front).await?;
        let slot_count: i32 = front.value("select livestore.slot_count()", &[]).await?;
        front::make_functions(&front, slot_count).await?;
        front.run("commit").await?;
        say(concat!("The front has the functions of version ", env!("CARGO_PKG_VERSION"), "."))
    }
}
