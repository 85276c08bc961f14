//! A client that pushes, whatever it speaks.

use super::electric::Electric;
use super::rpc::Rpc;
use super::s2::{Api, S2};

/// The protocol that it speaks, and the address.
#[derive(Debug, Clone)]
pub enum Target {
    Rpc(String),
    S2(Api, u16),
    Electric(u16),
}

pub enum Writer {
    Rpc(Box<Rpc>),
    S2(S2),
    Electric(Electric),
}

impl Writer {
    /// `head`: the head of the log, from which pushes go on.
    pub async fn open(target: &Target, store: &str, head: u64) -> Self {
        match target {
            Target::Rpc(url) => Self::Rpc(Box::new(Rpc::open(url, store, head).await)),
            Target::S2(api, port) => Self::S2(S2::open(*api, *port, store, head).await),
            Target::Electric(port) => Self::Electric(Electric::open(*port, store, head).await),
        }
    }

    /// Pushes the next events and waits for the acknowledgement.
    pub async fn push(&mut self, events: u64) {
        match self {
            Self::Rpc(rpc) => rpc.push(events).await,
            Self::S2(s2) => s2.push(events).await,
            Self::Electric(electric) => electric.push(events).await,
        }
    }
}
