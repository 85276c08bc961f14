//! The devices that are online: those that are connected here, and of their users those that are connected elsewhere.

mod user;

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;
use parking_lot::Mutex;

pub use self::user::{Known, Place, Requested};

use self::user::{Elsewhere, Here, User};
use super::mailbox::{Ended, Inbox, mailbox};
use super::parcel::{Devices, Kind, Message, Parcel};
use super::{ClientId, SidecarId, UserId};

#[derive(Default)]
pub struct Hub(Mutex<State>);

#[derive(Default)]
struct State {
    users: HashMap<UserId, User>,
    last_id: u64,
    /// Users whose devices have sent something: since the last check of the link, and before it, as long as that check is not
    /// answered.
    senders: [HashSet<UserId>; 2],
}

impl Hub {
    /// Brings a device online here; returns what names this connection of it.
    pub fn join(&self, user: &UserId, client_id: &ClientId) -> (u64, Inbox) {
        let mut state = self.0.lock();
        state.last_id += 1;
        let id = state.last_id;
        let user = state.users.entry(user.clone()).or_default();
        let (mailbox, inbox) = mailbox();
        user.forget_requests_of(client_id);
        let here = Here { id, connection: None, mailbox, asked: VecDeque::new() };
        if let Some(before) = user.here.insert(client_id.clone(), here) {
            before.mailbox.end(Ended::Replaced);
        }
        (id, inbox)
    }

    /// Takes a device offline. Returns the number by which other sidecars know it.
    pub fn leave(&self, user_id: &UserId, client_id: &ClientId, id: u64) -> Option<i64> {
        let mut state = self.0.lock();
        let user = state.users.get_mut(user_id)?;
        if user.here.get(client_id)?.id != id {
            return None;
        }
        let connection = user.remove_here(client_id);
        state.drop_user_if_gone(user_id);
        connection
    }

    /// The number of devices that are connected here.
    pub fn devices(&self) -> usize {
        self.0.lock().users.values().map(|user| user.here.len()).sum()
    }

    /// The other devices of a user, sorted.
    pub fn peers(&self, user: &UserId, client_id: &ClientId) -> Vec<ClientId> {
        let state = self.0.lock();
        let Some(user) = state.users.get(user) else {
            return Vec::new();
        };
        let all: HashSet<_> =
            user.here.keys().chain(user.elsewhere.keys()).filter(|other| *other != client_id).collect();
        let mut peers: Vec<_> = all.into_iter().cloned().collect();
        peers.sort();
        peers
    }

    /// Gives a text to all other devices of a user that are here, and returns the sidecars of the others; `None` if the device
    /// that sends it is not online any more.
    pub fn spread(&self, user_id: &UserId, client_id: &ClientId, id: u64, text: &Bytes) -> Option<Vec<SidecarId>> {
        let mut state = self.0.lock();
        let sender = state.users.get(user_id)?.here.get(client_id)?;
        if sender.id != id || sender.mailbox.has_ended() {
            return None;
        }
        state.senders[0].insert(user_id.clone());
        state.deliver_to_others(user_id, client_id, text);
        let elsewhere = state.users.get(user_id).map(|user| {
            let others = user.elsewhere.iter().filter(|(other, _)| *other != client_id);
            others.map(|(_, device)| device.sidecar.clone()).collect::<HashSet<_>>()
        });
        Some(elsewhere.into_iter().flatten().collect())
    }

    /// Gives a text to one connection of a device that is here, if it still is.
    pub fn deliver(&self, user: &UserId, client_id: &ClientId, id: u64, text: &Bytes) {
        self.0.lock().deliver(user, client_id, |here| here.id == id, text);
    }

    /// Remembers who asked. Returns the number of its connection (0: no other sidecar knows it), or `None` if the id is in use.
    pub fn note_request(&self, user: &UserId, client_id: &ClientId, id: u64, request_id: &str) -> Option<i64> {
        let mut state = self.0.lock();
        let Some(user) = state.users.get_mut(user) else {
            return Some(0);
        };
        let connection = match user.here.get(client_id) {
            Some(here) if here.id == id => here.connection.unwrap_or_default(),
            _ => return Some(0),
        };
        let asker = Requested { client_id: client_id.clone(), place: Place::Here(id) };
        user.note_request(request_id, asker).then_some(connection)
    }

    /// The sidecar that asked, if it was another one.
    pub fn requested(&self, user: &UserId, client_id: &ClientId, request_id: &str) -> Option<Requested> {
        let state = self.0.lock();
        let requested = state.users.get(user)?.requests.get(request_id)?;
        (requested.client_id != *client_id).then(|| requested.clone())
    }

    /// Takes over Postgres' list of the devices of some users, as of now. Returns those that it takes to be at `own`, but which
    /// are gone.
    pub fn learn(&self, own: &SidecarId, known: Vec<Known>) -> Devices {
        let mut by_user = HashMap::<UserId, Vec<Known>>::new();
        for device in known {
            by_user.entry(device.user.clone()).or_default().push(device);
        }
        let mut gone = Vec::new();
        let mut state = self.0.lock();
        for (user_id, known) in by_user {
            match state.users.get_mut(&user_id) {
                Some(user) => user.learn(own, known, &mut gone),
                None => gone.extend(known.into_iter().filter(|device| device.sidecar == *own).map(Known::into_device)),
            }
        }
        gone
    }

    /// Called when a check of the link begins: separates what was sent before from what is sent from now on.
    pub fn question(&self) {
        let [since, before] = &mut self.0.lock().senders;
        before.extend(since.drain());
    }

    /// Called when a check has shown that the link is there: what was sent before the check is not lost.
    pub fn answered(&self) {
        self.0.lock().senders[1].clear();
    }

    /// The link was broken, and is another one now: nobody is known elsewhere, nobody there knows who is here, and everybody
    /// here may have missed messages. Returns the users whose devices have sent something that others may have missed.
    pub fn start_over(&self) -> Vec<UserId> {
        let mut state = self.0.lock();
        for user in state.users.values_mut() {
            user.elsewhere.clear();
            user.requests.retain(|_, asker| matches!(asker.place, Place::Here(_)));
            user.known_to = 0;
            for here in user.here.values_mut() {
                here.connection = None;
                here.mailbox.end(Ended::Missed);
            }
        }
        state.senders.iter_mut().flat_map(HashSet::drain).collect()
    }

    /// Tells a later [`Self::start_over`] of these users again.
    pub fn remember(&self, missed: Vec<UserId>) {
        self.0.lock().senders[0].extend(missed);
    }

    /// Hears what another sidecar says.
    pub fn hear(&self, parcel: Parcel<'_>) {
        let Parcel { join, leave, gone, missed, messages, at } = parcel;
        let mut state = self.0.lock();
        for user in missed {
            state.end_all(&user);
        }
        for (user, client_id, connection) in leave {
            if let Some(user) = state.users.get_mut(&user)
                && user.elsewhere.get(&client_id).is_some_and(|device| device.connection == connection)
            {
                user.forget_elsewhere(|other| *other == client_id);
            }
        }
        if !gone.is_empty() {
            for user in state.users.values_mut() {
                user.forget_at(&gone);
            }
        }
        let Some(at) = at else {
            return;
        };
        for (user, client_id, connection) in join {
            if state.users.get(&user).is_some_and(|user| connection < user.known_to) {
                continue;
            }
            state.learn_of(&user, client_id, connection, &at);
        }
        for message in messages {
            state.receive(message, &at);
        }
    }
}

impl State {
    fn drop_user_if_gone(&mut self, user: &UserId) {
        if self.users.get(user).is_some_and(|user| user.here.is_empty()) {
            self.users.remove(user);
        }
    }

    fn deliver_to_others(&mut self, user_id: &UserId, from: &ClientId, text: &Bytes) {
        let Some(user) = self.users.get_mut(user_id) else {
            return;
        };
        let others = user.here.iter().filter(|(client_id, _)| *client_id != from);
        for (_, here) in others {
            here.mailbox.put(text);
        }
    }

    fn deliver(&self, user: &UserId, client_id: &ClientId, is_it: impl Fn(&Here) -> bool, text: &Bytes) {
        let here = self.users.get(user).and_then(|user| user.here.get(client_id));
        if let Some(here) = here.filter(|here| is_it(here)) {
            here.mailbox.put(text);
        }
    }

    fn end_all(&mut self, user: &UserId) {
        for here in self.users.get(user).into_iter().flat_map(|user| user.here.values()) {
            here.mailbox.end(Ended::Missed);
        }
    }

    /// A device came online elsewhere.
    fn learn_of(&mut self, user_id: &UserId, client_id: ClientId, connection: i64, at: &SidecarId) {
        let Some(user) = self.users.get_mut(user_id) else {
            return;
        };
        // One whose number is not known yet is newer than whatever was told before the answer with its number.
        if user.here.get(&client_id).and_then(|here| here.connection).is_some_and(|own| own < connection)
            && let Some(here) = user.here.get(&client_id)
        {
            here.mailbox.end(Ended::Replaced);
            user.remove_here(&client_id);
        }
        if user.elsewhere.get(&client_id).is_none_or(|known| known.connection < connection) {
            user.forget_elsewhere(|other| *other == client_id);
            let device = Elsewhere { sidecar: at.clone(), connection, asked: VecDeque::new() };
            user.elsewhere.insert(client_id, device);
        }
        self.drop_user_if_gone(user_id);
    }

    fn receive(&mut self, message: Message<'_>, at: &SidecarId) {
        let Message { user: user_id, from, kind, text } = message;
        let text = Bytes::copy_from_slice(text.get().as_bytes());
        match kind {
            Kind::Push => self.deliver_to_others(&user_id, &from, &text),
            Kind::Ask { request_id, connection } => {
                let place = Place::Elsewhere { sidecar: at.clone(), connection };
                let asker = Requested { client_id: from.clone(), place };
                let Some(user) = self.users.get_mut(&user_id) else {
                    return;
                };
                if user.note_request(&request_id, asker) {
                    self.deliver_to_others(&user_id, &from, &text);
                }
            }
            Kind::Answer { client_id, connection } => {
                self.deliver(&user_id, &client_id, |here| here.connection == Some(connection), &text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn id(text: &str) -> SidecarId {
        text.into()
    }

    /// A parcel of JSON, from the sidecar `there`.
    fn hear(hub: &Hub, json: &str) {
        let json = json.replacen('{', r#"{"at":"there","#, 1);
        hub.hear(serde_json::from_str(&json).unwrap());
    }

    fn known(client: &str, connection: i64, sidecar: &str) -> Known {
        Known { user: id("user"), client_id: id(client), connection, sidecar: id(sidecar) }
    }

    /// The messages that have arrived.
    fn received(inbox: &mut Inbox) -> Vec<String> {
        let messages = std::iter::from_fn(|| inbox.next().now_or_never().flatten());
        messages.map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()
    }

    fn ended(inbox: &Inbox) -> Option<Ended> {
        inbox.ending().ended().now_or_never()
    }

    #[test]
    fn a_message_goes_to_the_other_devices_of_the_user_here_and_to_the_sidecars_of_the_others() {
        let hub = Hub::default();
        let (a, mut inbox_a) = hub.join(&id("user"), &id("a"));
        let (_, mut inbox_b) = hub.join(&id("user"), &id("b"));
        let (_, mut inbox_other) = hub.join(&id("other"), &id("b"));
        hear(&hub, r#"{"join":[["user","c",7],["other","d",8]]}"#);
        assert_eq!(hub.peers(&id("user"), &id("a")), [id("b"), id("c")]);
        let sent = hub.spread(&id("user"), &id("a"), a, &Bytes::from_static(b"1"));
        assert_eq!(sent, Some(vec![id("there")]));
        hear(&hub, r#"{"messages":[{"user":"user","from":"c","kind":"push","text":2}]}"#);
        assert_eq!(received(&mut inbox_a), ["2"]);
        assert_eq!(received(&mut inbox_b), ["1", "2"]);
        assert_eq!(received(&mut inbox_other), [""; 0]);
        assert_eq!(hub.spread(&id("user"), &id("a"), a + 1, &Bytes::new()), None, "an earlier connection of it");
    }

    #[test]
    fn of_two_connections_of_a_device_the_later_one_counts_wherever_it_is() {
        let hub = Hub::default();
        let (first, inbox_first) = hub.join(&id("user"), &id("a"));
        let (second, inbox_second) = hub.join(&id("user"), &id("a"));
        assert_eq!((ended(&inbox_first), ended(&inbox_second)), (Some(Ended::Replaced), None));
        assert_eq!(hub.leave(&id("user"), &id("a"), first), None);
        assert_eq!(hub.devices(), 1);
        assert!(hub.learn(&id("own"), vec![known("a", 5, "own")]).is_empty());
        hear(&hub, r#"{"join":[["user","a",4]]}"#);
        assert_eq!(ended(&inbox_second), None, "the one elsewhere is older");
        hear(&hub, r#"{"join":[["user","a",6]]}"#);
        assert_eq!(ended(&inbox_second), Some(Ended::Replaced));
        assert_eq!((hub.devices(), hub.leave(&id("user"), &id("a"), second)), (0, None));
    }

    #[test]
    fn what_postgres_knows_of_here_and_is_gone_is_told() {
        let hub = Hub::default();
        hub.join(&id("user"), &id("a"));
        let gone = hub.learn(&id("own"), vec![known("a", 1, "own"), known("b", 2, "own"), known("c", 3, "there")]);
        assert_eq!(gone, [(id("user"), id("b"), 2)]);
        assert_eq!(hub.peers(&id("user"), &id("a")), [id("c")]);
        // Later, without c.
        hub.learn(&id("own"), vec![known("a", 1, "own")]);
        assert!(hub.peers(&id("user"), &id("a")).is_empty());
    }

    #[test]
    fn an_answer_goes_to_the_connection_that_asked_and_an_id_belongs_to_one_device() {
        let hub = Hub::default();
        let (a, _inbox) = hub.join(&id("user"), &id("a"));
        let (b, _inbox) = hub.join(&id("user"), &id("b"));
        assert_eq!(hub.note_request(&id("user"), &id("a"), a, "1"), Some(0));
        assert_eq!(hub.note_request(&id("user"), &id("b"), b, "1"), None);
        let asker = Requested { client_id: id("a"), place: Place::Here(a) };
        assert_eq!(hub.requested(&id("user"), &id("b"), "1"), Some(asker));
        assert_eq!(hub.requested(&id("user"), &id("a"), "1"), None, "its own");
        hub.leave(&id("user"), &id("a"), a);
        assert_eq!(hub.requested(&id("user"), &id("b"), "1"), None);
    }

    #[test]
    fn after_a_broken_link_devices_connect_again_and_their_users_are_told_elsewhere() {
        let hub = Hub::default();
        let (a, inbox) = hub.join(&id("user"), &id("a"));
        hub.spread(&id("user"), &id("a"), a, &Bytes::new());
        for missed in [vec![id("user")], vec![]] {
            hub.question();
            let started_over = hub.start_over();
            assert_eq!(started_over, missed);
        }
        assert_eq!(ended(&inbox), Some(Ended::Missed));
        hub.remember(vec![id("user")]);
        hub.question();
        hub.answered();
        assert!(hub.start_over().is_empty());
    }
}
