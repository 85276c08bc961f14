//! A client of LiveStore that reads from Electric, and from Postgres where Electric fails it.

use std::sync::Arc;

use super::{Chunk, NoPage, Upstream};
use crate::limits::memory::{Account, Share};
use crate::log::{Events, Location, Reader, StoreLog, Unreadable};
use crate::protocols::electric::api::{Answer, RawPosition};
use crate::protocols::electric::offset::{Offset, Position};
use crate::protocols::electric::read::{Follow, Page, Patience, ReadError, read};

/// The position of a client: in Electric's shape, if it has joined it, and in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    shape: Option<RawPosition>,
    seq_num: i64,
    backend_id: Box<str>,
    /// Whether the client was told that it has seen all, see [`Offset`]. Until then, its requests do not wait for events.
    was_told: bool,
}

impl Place {
    fn start(location: &Location) -> Self {
        Self { shape: None, seq_num: 0, backend_id: location.backend_id.clone(), was_told: false }
    }

    /// The same in the log that a page of ours is of.
    fn of(&self, page: &Page) -> Self {
        Self { backend_id: page.position.handle.clone(), ..self.clone() }
    }

    fn reset(&self, location: &Location) -> ReadError {
        ReadError::Reset { offset: self.ours().offset, handle: (*location.backend_id).into() }
    }

    /// Reads a position of ours, or one that [`Self::position`] wrote.
    fn parse(position: &RawPosition) -> Result<Self, ReadError> {
        let read = |offset: &str| offset.parse().map_err(|_| ReadError::Foreign);
        let parts: Vec<&str> = position.handle.rsplitn(4, '~').collect();
        let [backend_id, was_told, seq_num, handle] = parts[..] else {
            let Offset { seq_num, was_told } = read(&position.offset)?;
            return Ok(Self { shape: None, seq_num, backend_id: (*position.handle).into(), was_told });
        };
        let shape = RawPosition { offset: position.offset.clone(), handle: handle.into() };
        let shape = (!handle.is_empty()).then_some(shape);
        let Offset { seq_num, was_told } = read(&format!("{seq_num}_{was_told}"))?;
        Ok(Self { shape, seq_num, backend_id: backend_id.into(), was_told })
    }

    /// The handle says what a client is not asked for otherwise: what it has seen.
    fn position(&self) -> RawPosition {
        let Self { shape, seq_num, backend_id, was_told } = self;
        match shape {
            Some(RawPosition { offset, handle }) => RawPosition {
                offset: offset.clone(),
                handle: format!("{handle}~{seq_num}~{}~{backend_id}", u8::from(*was_told)),
            },
            None => {
                let offset = Offset { seq_num: *seq_num, was_told: *was_told };
                RawPosition { offset: offset.to_string(), handle: (**backend_id).into() }
            }
        }
    }

    /// The same in our own log.
    fn ours(&self) -> Position {
        let offset = Offset { seq_num: self.seq_num, was_told: self.was_told };
        Position { offset, handle: self.backend_id.clone() }
    }

    /// An answer that brings the client from here to behind the events. `share`: their memory.
    fn answer(
        &self,
        events: Events,
        is_up_to_date: bool,
        shape: Option<RawPosition>,
        share: Option<Arc<Share>>,
    ) -> Answer {
        let seq_num = events.last().map_or(self.seq_num, |last| last.seq_num);
        let was_told = events.is_empty();
        let behind = Self { shape, seq_num, backend_id: self.backend_id.clone(), was_told };
        let position = behind.position();
        Answer { page: Page { events, position: behind.ours(), is_up_to_date, share }, position }
    }
}

/// The position of a client in our own log, which may have read from Electric before.
///
/// # Errors
/// It never read here.
pub fn own_position(position: &RawPosition) -> Result<Position, ReadError> {
    Place::parse(position).map(|place| place.ours())
}

/// A page for LiveStore's client: from Electric if it has it, from Postgres if not.
pub async fn pull(
    upstream: &Upstream,
    log: &StoreLog,
    position: Option<RawPosition>,
    is_live: bool,
    patience: &mut Patience,
) -> Result<Answer, ReadError> {
    let place = position.as_ref().map(Place::parse).transpose()?;
    let nothing = || match &place {
        Some(place) => Ok(place.answer(Events::default(), is_live, place.shape.clone(), None)),
        None => Err(ReadError::Away),
    };
    let Some(reader) = patience.wait_for(log.reader()).await.transpose()? else {
        return nothing();
    };
    let (account, log) = (log.account(), reader);
    let Some(location) = patience.wait_for(locate(&log, place.as_ref())).await else {
        return nothing();
    };
    let Some(location) = location? else {
        // A store that does not exist yet has no shape.
        let follow = if is_live && place.is_some() { Follow::TellFirst } else { Follow::No };
        return read(&log, place.map(|place| place.ours()).as_ref(), follow, patience).await.map(Answer::from);
    };
    let here = place.clone().unwrap_or_else(|| Place::start(&location));
    if here.seq_num > 0 && here.backend_id != location.backend_id {
        return Err(here.reset(&location));
    }
    let pull = Pull { upstream, log: &log, account: &account, here, is_live, is_new: place.is_none() };
    if !pull.is_new && pull.here.shape.is_none() {
        return pull.join(&location, patience).await;
    }
    let following = async {
        tokio::select! {
            chunk = pull.follow(&location) => Ok(chunk),
            denied = log.ended() => Err(denied),
        }
    };
    match patience.wait_for(following).await.transpose()? {
        Some(Ok(chunk)) => pull.followed(chunk, patience).await,
        Some(Err(NoPage::Unavailable)) => pull.read_ourselves(pull.here.shape.clone(), patience).await,
        Some(Err(NoPage::Unknown)) => pull.join(&location, patience).await,
        Some(Err(NoPage::Mutated)) => {
            log.forget_location().await;
            match patience.wait_for(log.locate()).await {
                // The events have moved to a table of the store's own; or the client had none of those that are gone.
                Some(Ok(Some(now)))
                    if now != location && (now.backend_id == location.backend_id || pull.here.seq_num == 0) =>
                {
                    pull.join(&now, patience).await
                }
                _ => Err(pull.here.reset(&location)),
            }
        }
        None => nothing(),
    }
}

/// Finds the events of the store. The cached location is not used for a new client, or if its backend id is not that of the
/// client: it may be outdated.
async fn locate(log: &Reader, place: Option<&Place>) -> Result<Option<Location>, Unreadable> {
    if let Some(place) = place
        && let Some(location) = log.locate().await?
        && (place.seq_num == 0 || place.backend_id == location.backend_id)
    {
        return Ok(Some(location));
    }
    log.forget_location().await;
    log.locate().await
}

/// One request of a client.
struct Pull<'a> {
    upstream: &'a Upstream,
    log: &'a Reader,
    /// The memory for pages.
    account: &'a Account,
    here: Place,
    is_live: bool,
    /// It has no position.
    is_new: bool,
}

impl Pull<'_> {
    /// Reads on in the shape, until there is an event or the end.
    async fn follow(&self, location: &Location) -> Result<Chunk, NoPage> {
        let Self { upstream, account, here, .. } = self;
        let mut shape = here.shape.clone();
        loop {
            let is_waiting = self.is_live && here.was_told && shape.is_some();
            let mut chunk = upstream.page(account, location, shape.as_ref(), is_waiting).await?;
            // Some may have come from Postgres before.
            chunk.events.retain(|event| event.seq_num > here.seq_num);
            let mut last = here.seq_num;
            for event in &chunk.events {
                if event.parent_seq_num != last {
                    return Err(upstream.unknown("it does not have all events"));
                }
                last = event.seq_num;
            }
            if chunk.is_up_to_date || !chunk.events.is_empty() || shape.as_ref() == Some(&chunk.position) {
                return Ok(chunk);
            }
            shape = Some(chunk.position);
        }
    }

    /// The answer to a client that has followed the shape so far.
    async fn followed(&self, chunk: Chunk, patience: &mut Patience) -> Result<Answer, ReadError> {
        let Chunk { events, position, is_up_to_date, share } = chunk;
        if events.is_empty() && self.is_live && self.here.was_told {
            // It has waited for nothing. A replication that stands still does not say so.
            drop(share);
            let ours = Position { offset: Offset::after(self.here.seq_num), handle: self.here.backend_id.clone() };
            let page = read(self.log, Some(&ours), Follow::TellFirst, patience).await?;
            return Ok(self.answer_with(page, Some(position)));
        }
        let mut here = self.here.clone();
        if here.seq_num == 0 && !events.is_empty() {
            // Any log is right for who has read nothing of it. From now on it is this one.
            self.log.forget_location().await;
            if let Some(Ok(Some(location))) = patience.wait_for(self.log.locate()).await {
                here.backend_id = location.backend_id;
            }
        }
        Ok(here.answer(events.into(), is_up_to_date, Some(position), share))
    }

    /// Joins the shape at its end, and reads the events before that from Postgres. Postgres is read after Electric, so that
    /// nothing is missed. If Electric has an event that is not visible in Postgres yet, the next event of the shape does not
    /// follow the last one, and the client joins again.
    async fn join(&self, location: &Location, patience: &mut Patience) -> Result<Answer, ReadError> {
        let now = RawPosition { offset: "now".into(), handle: String::new() };
        let joining = self.upstream.page(self.account, location, Some(&now), false);
        let Some(Ok(Chunk { position, .. })) = patience.wait_for(joining).await else {
            return self.read_ourselves(None, patience).await;
        };
        let page = read(self.log, self.ours().as_ref(), Follow::No, patience).await?;
        if page.events.is_empty() && self.is_live && self.here.was_told {
            // An Electric that returns its position but no events must not be asked again and again.
            return self.read_ourselves(Some(position), patience).await;
        }
        // Otherwise the rest is read from Postgres next.
        let shape = page.is_up_to_date.then_some(position);
        Ok(self.answer_with(page, shape))
    }

    /// A page of ours for a client that is at this place of the shape.
    fn answer_with(&self, page: Page, shape: Option<RawPosition>) -> Answer {
        self.here.of(&page).answer(page.events, page.is_up_to_date, shape, page.share)
    }

    /// Reads from Postgres; the client is at this place of the shape.
    async fn read_ourselves(&self, shape: Option<RawPosition>, patience: &mut Patience) -> Result<Answer, ReadError> {
        let follow = if self.is_live && !self.is_new { Follow::TellFirst } else { Follow::No };
        let page = read(self.log, self.ours().as_ref(), follow, patience).await?;
        Ok(self.answer_with(page, shape))
    }

    fn ours(&self) -> Option<Position> {
        (!self.is_new).then(|| self.here.ours())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place() -> impl Strategy<Value = Place> {
        let shape = prop::option::of(("[0-9]{1,8}_(inf|[0-9])", "[0-9]{1,6}-[0-9~]{1,6}"));
        (shape, 0..1i64 << 53, "[A-Za-z0-9_-]{21}", any::<bool>()).prop_map(|(shape, seq_num, backend_id, was_told)| {
            let shape = shape.map(|(offset, handle)| RawPosition { offset, handle });
            Place { shape, seq_num, backend_id: backend_id.into(), was_told }
        })
    }

    proptest! {
        #[test]
        fn a_client_brings_back_where_it_is(place in place()) {
            prop_assert_eq!(Place::parse(&place.position()).unwrap(), place);
        }

        #[test]
        fn nothing_makes_it_panic(offset: String, handle: String) {
            let _ = Place::parse(&RawPosition { offset, handle });
        }
    }

    #[test]
    fn fuzz_place() {
        fuzzing::text_target!("place", |text| {
            let (offset, handle) = text.split_once('\n').unwrap_or((text, ""));
            let Ok(place) = Place::parse(&RawPosition { offset: offset.into(), handle: handle.into() }) else { return };
            assert!((0..1 << 53).contains(&place.seq_num), "{place:?}");
            assert_eq!(Place::parse(&place.position()).unwrap(), place);
        });
    }
}
