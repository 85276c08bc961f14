//! The settings of the exchange between devices.

use std::num::NonZeroU32;

use clap::Args;

use crate::limits::rate_limit::Rate;
use crate::settings::values::{LEAST_BYTES_PER_SECOND, rate};

#[derive(Debug, Clone, Args)]
pub struct RelaySettings {
    /// Messages a second that the devices of one user may send through the peer relay. More wait.
    #[arg(long, env = "LIVESTORE_RELAY_MESSAGES_PER_SECOND", default_value = "1000", value_parser = rate(1))]
    relay_messages_per_second: NonZeroU32,

    /// Bytes per second that the devices of one user may send through the peer relay.
    #[arg(long, env = "LIVESTORE_RELAY_BYTES_PER_SECOND", default_value = "8388608", value_parser = rate(LEAST_BYTES_PER_SECOND))]
    relay_bytes_per_second: NonZeroU32,
}

impl RelaySettings {
    pub fn per_user(&self) -> Rate {
        Rate { items: self.relay_messages_per_second, bytes: self.relay_bytes_per_second }
    }
}
