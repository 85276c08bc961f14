//! `livestore-sidecar shards status`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use tokio::time::timeout;

use super::front::{self, Known};
use super::session::Session;
use super::{ShardsError, say};
use crate::postgres::address;

/// The time that a shard may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct Status {
    /// The front, as a role that may read: postgres://livestore_sidecar:…@front/…. It asks each shard as the same role.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,

    /// PEM file of the authority that signs the certificates of the databases. Without it, the authorities that this system trusts.
    #[arg(long, env = "LIVESTORE_DATABASE_ROOT_CERTIFICATE", value_name = "FILE")]
    database_root_certificate: Option<PathBuf>,

    /// Print JSON, an object a line.
    #[arg(long)]
    json: bool,
}

/// A line of the answer.
#[derive(Debug, Serialize)]
struct Line {
    shard: String,
    number: i32,
    connection: String,
    /// By the front's map.
    slots: usize,
    /// Which they are: 0-127,130.
    slot_list: String,
    /// Stores that are here although their slots are elsewhere.
    moved_stores: usize,
    stores: Option<i64>,
    /// The sum of the heads of all logs: the events that were ever appended, but for logs that were reset or dropped.
    heads: Option<i64>,
    version: Option<String>,
    /// "ok", or what is wrong.
    state: String,
}

/// The map of the front.
struct Map {
    /// The number of the shard of each slot; none if the front says an address that no shard has.
    slots: Vec<Option<i32>>,
    moved_stores: Vec<String>,
    moved_shards: Vec<i32>,
}

impl Map {
    /// The slots of a shard, or of none.
    fn slots_of(&self, number: Option<i32>) -> Vec<i32> {
        self.slots.iter().zip(0..).filter(|(shard, _)| **shard == number).map(|(_, slot)| slot).collect()
    }
}

impl Status {
    /// Returns whether all is well.
    pub async fn show(&self) -> Result<bool, ShardsError> {
        let root_certificate = self.database_root_certificate.as_deref();
        let address = address("--database-url", &self.database_url, root_certificate)?;
        let front = Session::open_to_read("the front".into(), address).await?;
        if !front.value::<bool>("select to_regprocedure('livestore.shard_map()') is not null", &[]).await? {
            return Err(ShardsError::Refused(vec![
                "the database of --database-url is no front: livestore-sidecar shards init makes one".into(),
            ]));
        }
        let row = "select m.slots, m.moved_store_ids, m.moved_shards from livestore.shard_map() m";
        let row = front.row(row, &[]).await?;
        let map =
            Map { slots: front.read(&row, 0)?, moved_stores: front.read(&row, 1)?, moved_shards: front.read(&row, 2)? };
        let shards = front::shards(&front).await?;
        let lines = shards.into_iter().map(async |known| {
            let own = map.slots_of(Some(known.number));
            let moved_stores = map.moved_shards.iter().filter(|number| **number == known.number).count();
            let mut line = Line {
                shard: known.name.clone(),
                number: known.number,
                connection: known.connection.clone(),
                slots: own.len(),
                slot_list: ranges(&own),
                moved_stores,
                stores: None,
                heads: None,
                version: None,
                state: "ok".into(),
            };
            match timeout(PATIENCE, self.ask(&known, &own, &map, &mut line)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => line.state = error.to_string(),
                Err(_) => line.state = format!("the shard {}: it does not answer in time", known.name),
            }
            line
        });
        let lines = futures_util::future::join_all(lines).await;
        self.print(&lines)?;
        let lost = map.slots_of(None);
        if !lost.is_empty() {
            eprintln!(
                "livestore-sidecar: at the front, the slots {} have an address that no shard has. livestore.shard at each shard says which one has them: give them its connection, with alter server livestore_shards options (set p{} '…')",
                ranges(&lost),
                lost[0]
            );
        }
        Ok(lost.is_empty() && lines.iter().all(|line| line.state == "ok"))
    }

    async fn ask(&self, known: &Known, slots: &[i32], map: &Map, line: &mut Line) -> Result<(), ShardsError> {
        let root_certificate = self.database_root_certificate.as_deref();
        let address = front::shard_address(&self.database_url, root_certificate, &known.connection)?;
        let session = Session::open_to_read(format!("the shard {}", known.name), address).await?;
        let row = session
            .row(
                "select livestore.version(), count(*), coalesce(sum(s.head), 0)::bigint,
                     (select h.number from livestore.shard h), (select h.slot_count from livestore.shard h),
                     (select array(select unnest(h.slots) order by 1) from livestore.shard h)
                 from livestore.stores s",
                &[],
            )
            .await?;
        line.version = session.read(&row, 0)?;
        line.stores = session.read(&row, 1)?;
        line.heads = session.read(&row, 2)?;
        let place: (Option<i32>, Option<i32>) = (session.read(&row, 3)?, session.read(&row, 4)?);
        let has: Option<Vec<i32>> = session.read(&row, 5)?;
        if place != (Some(known.number), i32::try_from(map.slots.len()).ok()) {
            line.state = "it does not know that it is this shard".into();
        } else if has.as_deref() != Some(slots) {
            line.state = "it has other slots than the front says: is something being moved?".into();
        }
        let differ = session
            .rows(
                "select m.store_id
                 from unnest($1::text[], $2::integer[]) m(store_id, number)
                 cross join livestore.shard h
                 left join livestore.shard_stores e on e.store_id = m.store_id
                 where coalesce(e.is_here, livestore.slot(m.store_id, h.slot_count) = any (h.slots)) <> (m.number = h.number)
                 union all
                 select e.store_id
                 from livestore.shard_stores e cross join livestore.shard h
                 where (e.is_here or livestore.slot(e.store_id, h.slot_count) = any (h.slots)) and e.store_id <> all ($1::text[])
                 limit 1",
                &[&map.moved_stores, &map.moved_shards],
            )
            .await?;
        if let Some(row) = differ.first() {
            let store_id: String = session.read(row, 0)?;
            line.state = format!("it and the front do not agree where the store {store_id:?} is");
        }
        let unfinished = session
            .rows(
                "select coalesce('slot ' || m.slot, 'the store ' || to_json(m.store_id)), m.shard from livestore.shard_moves m
                 where m.finished_at is null",
                &[],
            )
            .await?;
        if let Some(row) = unfinished.first() {
            let (subject, shard): (String, String) = (session.read(row, 0)?, session.read(row, 1)?);
            line.state = format!(
                "a move of {subject} to {shard} was interrupted, or is about to end: livestore-sidecar shards move"
            );
        }
        Ok(())
    }

    fn print(&self, lines: &[Line]) -> Result<(), ShardsError> {
        if self.json {
            return lines.iter().try_for_each(|line| say(&serde_json::to_string(line).unwrap_or_default()));
        }
        let number = |value: Option<i64>| value.map(|value| value.to_string()).unwrap_or_default();
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["shard", "number", "slots", "stores", "moved", "heads", "version", "connection", "state"]);
        for line in lines {
            table.add_row([
                line.shard.clone(),
                line.number.to_string(),
                if line.slots == 0 { "0".into() } else { format!("{} ({})", line.slots, line.slot_list) },
                number(line.stores),
                line.moved_stores.to_string(),
                number(line.heads),
                line.version.clone().unwrap_or_default(),
                line.connection.clone(),
                line.state.clone(),
            ]);
        }
        table.trim_fmt().lines().try_for_each(say)
    }
}

/// Numbers in order, as ranges: 0-127,130.
fn ranges(numbers: &[i32]) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let range = |(first, last): &(i32, i32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_listed_as_ranges() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
    }
}
