//! The peer relay's exchange: brings messages of a device to the other devices of the same user, wherever they are connected.
//! Their meaning is the protocol's. Nothing is stored: those who are not online miss what is sent.
//!
//! - [`hub`] knows the devices that are connected here, and of their users those that are connected elsewhere.
//! - [`link`] is the connection to other sidecars, through Postgres.
//! - [`parcel`] is what goes over it.
//! - [`archive`] keeps events in a log, with `--relay-store`.

pub mod archive;
mod hub;
mod link;
mod mailbox;
mod parcel;
mod settings;

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

pub use self::mailbox::{Ended, Ending, Inbox};
pub use self::settings::RelaySettings;

use self::hub::{Hub, Place, Requested};
use self::link::{LinkHandle, LinkTask};
use self::parcel::{Kind, Message};
use crate::limits::rate_limit::RateLimit;
use crate::postgres::{Database, Demand, Hold};
use crate::telemetry::metrics::{self, Limit};

/// The user of the device.
pub type UserId = Arc<str>;
/// The lasting name of a device, of one user.
pub type ClientId = Arc<str>;
/// Names one life of a sidecar's link.
pub type SidecarId = Arc<str>;

/// The exchange, of this sidecar and all others at the same database. Cheap to clone.
#[derive(Clone)]
pub struct Relay {
    hub: Arc<Hub>,
    link: LinkHandle,
    rate_limit: Arc<RateLimit<UserId>>,
    demand: Demand,
}

/// The others could not be reached: those elsewhere have not got the message, those here have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("devices on other servers cannot be reached at the moment: send it again")]
pub struct Unreachable;

/// Why a device cannot ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("another device uses this requestId: choose one that is unique")]
    InUse,
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
}

impl Relay {
    /// Starts the link to other sidecars on `tasks`; it never ends by itself, and does not need the database to be there.
    /// `home` tells the database that all sidecars meet at; it is asked for each connection.
    pub fn start(
        home: impl Fn() -> Database + Send + 'static,
        settings: &RelaySettings,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let hub = Arc::<Hub>::default();
        let demand = home().demand().clone();
        let (link, task) = LinkTask::new(Box::new(home), Arc::clone(&hub));
        let rate_limit = RateLimit::start(settings.per_user(), tasks);
        tasks.spawn(task.run());
        Self { hub, link, rate_limit, demand }
    }

    /// Waits while this user's devices send more than they may.
    pub async fn admit(&self, user: &UserId, bytes: usize) {
        metrics::relayed();
        if self.rate_limit.admit(user, bytes).await {
            Limit::Relay.hit();
        }
    }

    /// Brings a device online, in the place of an earlier connection of it. Messages for it come out of the inbox.
    pub async fn join(&self, user: UserId, client_id: ClientId) -> (Device, Inbox) {
        let _demand = self.demand.hold();
        let (id, inbox) = self.hub.join(&user, &client_id);
        let device = Device { relay: self.clone(), user, client_id, id, _demand };
        self.link.join(&device.user, &device.client_id).await;
        (device, inbox)
    }

    /// The number of devices that are connected here.
    pub fn devices(&self) -> usize {
        self.hub.devices()
    }

    /// Tells the other sidecars that this one ends, and with it all of its devices.
    pub async fn exit(&self) {
        self.link.exit().await;
    }
}

/// A device that is online, until this is dropped.
pub struct Device {
    relay: Relay,
    user: UserId,
    client_id: ClientId,
    id: u64,
    /// The link has to be there.
    _demand: Hold,
}

impl Device {
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The other devices of the user that are online, sorted.
    pub fn peers(&self) -> Vec<ClientId> {
        self.relay.hub.peers(&self.user, &self.client_id)
    }

    /// Sends a JSON text to all other devices of the user. Messages of one device come in the order of these calls.
    pub async fn push(&self, text: Bytes) -> Result<(), Unreachable> {
        let elsewhere = self.relay.hub.spread(&self.user, &self.client_id, self.id, &text).ok_or(Unreachable)?;
        self.send(elsewhere, Kind::Push, &text).await
    }

    /// The same with a question: [`Self::answer`] brings the answers back.
    pub async fn ask(&self, request_id: &str, text: Bytes) -> Result<(), AskError> {
        let Some(connection) = self.relay.hub.note_request(&self.user, &self.client_id, self.id, request_id) else {
            return Err(AskError::InUse);
        };
        let elsewhere = self.relay.hub.spread(&self.user, &self.client_id, self.id, &text).ok_or(Unreachable)?;
        let kind = Kind::Ask { request_id: request_id.into(), connection };
        Ok(self.send(elsewhere, kind, &text).await?)
    }

    /// Sends an answer to the device that asked. Nobody gets it if that one has left, or nobody asked.
    pub async fn answer(&self, request_id: &str, text: Bytes) -> Result<(), Unreachable> {
        match self.relay.hub.requested(&self.user, &self.client_id, request_id) {
            None => Ok(()),
            Some(Requested { client_id, place: Place::Here(id) }) => {
                self.relay.hub.deliver(&self.user, &client_id, id, &text);
                Ok(())
            }
            Some(Requested { client_id, place: Place::Elsewhere { sidecar, connection } }) => {
                self.send(vec![sidecar], Kind::Answer { client_id, connection }, &text).await
            }
        }
    }

    async fn send(&self, to: Vec<SidecarId>, kind: Kind, text: &Bytes) -> Result<(), Unreachable> {
        if to.is_empty() {
            return Ok(());
        }
        let message = Message::encode(&self.user, &self.client_id, kind, text).ok_or(Unreachable)?;
        if self.relay.link.send(to, message).await { Ok(()) } else { Err(Unreachable) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(connection) = self.relay.hub.leave(&self.user, &self.client_id, self.id) {
            self.relay.link.leave(&self.user, &self.client_id, connection);
        }
    }
}
