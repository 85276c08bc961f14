//! The devices of one user, and their open questions.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::relay::mailbox::Mailbox;
use crate::relay::parcel::Devices;
use crate::relay::{ClientId, SidecarId, UserId};

/// Questions of a device that are remembered; the oldest is forgotten first.
const REQUESTS: usize = 64;

/// There is one as long as a device of the user is connected here.
#[derive(Default)]
pub struct User {
    pub here: HashMap<ClientId, Here>,
    pub elsewhere: HashMap<ClientId, Elsewhere>,
    pub requests: HashMap<String, Requested>,
    /// The number of the newest connection of this sidecar in the last list of devices from Postgres. Notifications of lower
    /// numbers are older than the list, and are ignored.
    pub known_to: i64,
}

pub struct Here {
    /// Unique in this process.
    pub id: u64,
    /// Its number, as other sidecars know it, once they do.
    pub connection: Option<i64>,
    pub mailbox: Mailbox,
    pub asked: VecDeque<String>,
}

pub struct Elsewhere {
    pub sidecar: SidecarId,
    pub connection: i64,
    pub asked: VecDeque<String>,
}

/// The device or sidecar that asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requested {
    pub client_id: ClientId,
    pub place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Here(u64),
    Elsewhere { sidecar: SidecarId, connection: i64 },
}

/// The devices that a sidecar learns of when it makes its own known.
pub struct Known {
    pub user: UserId,
    pub client_id: ClientId,
    pub connection: i64,
    pub sidecar: SidecarId,
}

impl Known {
    pub fn into_device(self) -> (UserId, ClientId, i64) {
        (self.user, self.client_id, self.connection)
    }
}

impl User {
    /// All devices of the user.
    pub fn learn(&mut self, own: &SidecarId, known: Vec<Known>, gone: &mut Devices) {
        let elsewhere: HashMap<_, _> = known
            .iter()
            .filter(|device| device.sidecar != *own)
            .map(|device| (device.client_id.clone(), device.connection))
            .collect();
        let is_known = |client_id: &ClientId, device: &Elsewhere| elsewhere.get(client_id) == Some(&device.connection);
        let stale: HashSet<_> =
            self.elsewhere.iter().filter(|(id, device)| !is_known(id, device)).map(|(id, _)| id.clone()).collect();
        self.forget_elsewhere(|client_id| stale.contains(client_id));
        for device in known {
            if device.sidecar != *own {
                let Known { client_id, connection, sidecar, .. } = device;
                let found = Elsewhere { sidecar, connection, asked: VecDeque::new() };
                self.elsewhere.entry(client_id).or_insert(found);
                continue;
            }
            self.known_to = self.known_to.max(device.connection);
            match self.here.get_mut(&device.client_id) {
                Some(here) => here.connection = Some(device.connection),
                None => gone.push(device.into_device()),
            }
        }
    }

    pub fn remove_here(&mut self, client_id: &ClientId) -> Option<i64> {
        self.forget_requests_of(client_id);
        self.here.remove(client_id)?.connection
    }

    pub fn forget_elsewhere(&mut self, is_it: impl Fn(&ClientId) -> bool) {
        let Self { elsewhere, requests, .. } = self;
        elsewhere.retain(|client_id, device| {
            let goes = is_it(client_id);
            if goes {
                device.asked.iter().for_each(|request| drop(requests.remove(request)));
            }
            !goes
        });
    }

    pub fn forget_at(&mut self, sidecars: &[SidecarId]) {
        let there: HashSet<_> = self
            .elsewhere
            .iter()
            .filter(|(_, device)| sidecars.contains(&device.sidecar))
            .map(|(client_id, _)| client_id.clone())
            .collect();
        self.forget_elsewhere(|client_id| there.contains(client_id));
    }

    pub fn forget_requests_of(&mut self, client_id: &ClientId) {
        if let Some(here) = self.here.get_mut(client_id) {
            for request in std::mem::take(&mut here.asked) {
                self.requests.remove(&request);
            }
        }
    }

    /// False: another device uses this id. Requests of devices that are not online are not remembered.
    pub fn note_request(&mut self, request_id: &str, asker: Requested) -> bool {
        if let Some(known) = self.requests.get(request_id) {
            return *known == asker;
        }
        let asked = match &asker.place {
            Place::Here(_) => self.here.get_mut(&asker.client_id).map(|here| &mut here.asked),
            Place::Elsewhere { connection, .. } => {
                let device = self.elsewhere.get_mut(&asker.client_id);
                device.filter(|device| device.connection == *connection).map(|device| &mut device.asked)
            }
        };
        let Some(asked) = asked else {
            return true;
        };
        asked.push_back(request_id.into());
        if asked.len() > REQUESTS
            && let Some(oldest) = asked.pop_front()
        {
            self.requests.remove(&oldest);
        }
        self.requests.insert(request_id.into(), asker);
        true
    }
}
