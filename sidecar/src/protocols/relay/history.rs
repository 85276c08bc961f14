//! With `--relay-store`: the events of a user are in a store, and pulls are answered from it.

use chrono::{DateTime, TimeDelta, Utc};

use super::messages::{Event, Object, Refusal, pull_response};
use super::session::Failure;
use crate::limits::memory::Account;
use crate::log::{PushError, StoreLog};
use crate::protocols::websocket::Outgoing;
use crate::relay::Device;
use crate::relay::archive::{self, ArchivedEvent, ReadError};

/// By how much the clock of a device may be ahead of that of Postgres: what is sent twice does less harm than what is missed.
const SLACK: TimeDelta = TimeDelta::seconds(60);

pub struct History(StoreLog);

impl History {
    pub fn new(log: StoreLog) -> Self {
        Self(log)
    }

    /// Appends the events of a push, those that are not there already.
    pub async fn append(&self, events: &[Object<Event<'_>>]) -> Result<(), Refusal> {
        let events: Vec<_> = events.iter().map(|Object(event)| archived(event)).collect();
        archive::append(&self.0, &events).await.map_err(|error| match error {
            PushError::Unavailable => Refusal::Unavailable(error.to_string()),
            error => Refusal::Rejected(error.to_string()),
        })
    }

    /// Answers a pull, in pages: what was appended since, by the clock of Postgres, in milliseconds. `account`: the memory for the pages.
    pub async fn answer(
        &self,
        since: f64,
        device: &Device,
        outgoing: &Outgoing,
        account: &Account,
    ) -> Result<(), Failure> {
        let mut pages = archive::since(&self.0, moment(since)).await.map_err(refused)?;
        loop {
            let page = pages.next().await.map_err(refused)?;
            let (response, has_more) = (pull_response(&page.events, page.has_more, &device.peers()), page.has_more);
            drop(page);
            outgoing.send_from(account, response.into()).await?;
            if !has_more {
                return Ok(());
            }
        }
    }
}

fn archived<'a>(event: &'a Event<'_>) -> ArchivedEvent<'a> {
    ArchivedEvent {
        name: &event.event_name,
        data: event.data,
        client_id: &event.client_id,
        session_id: &event.session_id,
        number: event.event_number,
        timestamp: event.timestamp,
    }
}

fn moment(milliseconds: f64) -> DateTime<Utc> {
    // Beyond what there is, the conversion saturates, and there is no such time.
    #[expect(clippy::cast_possible_truncation)]
    let time = DateTime::from_timestamp_millis(milliseconds as i64).and_then(|time| time.checked_sub_signed(SLACK));
    time.unwrap_or(if milliseconds > 0.0 { DateTime::<Utc>::MAX_UTC } else { DateTime::<Utc>::MIN_UTC })
}

fn refused(error: ReadError) -> Refusal {
    match error {
        ReadError::Denied(denied) => Refusal::Rejected(denied.to_string()),
        ReadError::Unavailable => Refusal::Unavailable(error.to_string()),
        ReadError::Unreadable(unreadable) => Refusal::Rejected(unreadable.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that asks for later events gets no more.
    #[test]
    fn fuzz_moment() {
        fuzzing::text_target!("moment", |text| {
            let mut numbers = text.lines().filter_map(|line| serde_json::from_str::<f64>(line).ok());
            let (Some(one), Some(other)) = (numbers.next(), numbers.next()) else { return };
            assert!(one > other || moment(one) <= moment(other), "{one} {other}");
            assert!(one < other || moment(one) >= moment(other), "{one} {other}");
        });
    }
}
