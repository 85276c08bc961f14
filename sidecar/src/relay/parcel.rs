//! Messages between sidecars, as JSON: the texts of `livestore.relay_notify`.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ClientId, SidecarId};

/// Devices by user, name and number of the connection.
pub type Devices = Vec<(Arc<str>, ClientId, i64)>;

/// One text: some of these.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Parcel<'a> {
    /// Devices that are online at `at`.
    pub join: Devices,
    /// Devices that are not online any more.
    pub leave: Devices,
    /// Sidecars that are gone, with all of their devices.
    pub gone: Vec<SidecarId>,
    /// Users whose devices may have missed messages.
    pub missed: Vec<Arc<str>>,
    /// From devices at `at` to devices here.
    #[serde(borrow)]
    pub messages: Vec<Message<'a>>,
    pub at: Option<SidecarId>,
}

/// A message of a device.
#[derive(Serialize, Deserialize)]
pub struct Message<'a> {
    pub user: Arc<str>,
    /// The device that sends it.
    pub from: ClientId,
    pub kind: Kind,
    #[serde(borrow)]
    pub text: &'a RawValue,
}

/// Whom it is for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// The other devices of the user.
    Push,
    /// The other devices of the user. Answers go to this connection.
    #[serde(rename_all = "camelCase")]
    Ask { request_id: String, connection: i64 },
    /// This connection of a device that asked.
    #[serde(rename_all = "camelCase")]
    Answer { client_id: ClientId, connection: i64 },
}

impl Message<'_> {
    /// `None`: the text is no JSON.
    pub fn encode(user: &Arc<str>, from: &ClientId, kind: Kind, text: &Bytes) -> Option<String> {
        let text = serde_json::from_slice(text).ok()?;
        serde_json::to_string(&Message { user: Arc::clone(user), from: Arc::clone(from), kind, text }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::hub::Hub;

    #[test]
    fn fuzz_parcel() {
        fuzzing::text_target!("parcel", |text| {
            let hub = Hub::default();
            let _here = hub.join(&"user".into(), &"here".into());
            let Ok(parcel) = serde_json::from_str::<Parcel<'_>>(text) else { return };
            for message in &parcel.messages {
                let json = serde_json::to_string(message).unwrap();
                let Message { user, from, kind, text } = serde_json::from_str(&json).unwrap();
                let text = Bytes::from(text.get().to_string());
                assert_eq!(Message::encode(&user, &from, kind, &text), Some(json));
            }
            hub.hear(parcel);
        });
    }
}
