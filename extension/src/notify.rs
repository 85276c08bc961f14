//! Tells those who listen where logs stand: `NOTIFY livestore_heads`, and `NOTIFY livestore` for sidecars before 0.3.

use livestore_rules::notification::{heads_payloads, store_digest};
use pgrx::Array;
use pgrx::pg_sys::BuiltinOid::TEXTOID;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::statement::Statement;

thread_local! {
    // Names the schema of operators, too: a hook may have set a search_path.
    static CHANNELS: Statement = const {
        Statement::new(
            "select i.heads_key,
                  coalesce(
                      case when pg_catalog.current_setting('livestore.legacy_notify', true) operator(pg_catalog.<>) '' then
                          pg_catalog.lower(pg_catalog.current_setting('livestore.legacy_notify', true))
                              operator(pg_catalog.=) any (array['on', 'true', 'yes', '1'])
                      end,
                      i.legacy_notify
                  )
              from livestore.instance i order by i.created_at limit 1",
            &[],
        )
    };
    static NOTIFY: Statement = const { Statement::new("select pg_catalog.pg_notify($1, $2)", &[TEXTOID, TEXTOID]) };
}

/// Notifies of the heads of stores; `None`: the log is another one now.
///
/// # Errors
/// Of statements.
pub fn notify<'a>(
    client: &mut SpiClient<'_>,
    heads: impl Iterator<Item = (&'a str, Option<i64>)> + Clone,
    source: Option<&str>,
) -> spi::Result<()> {
    let channels = CHANNELS.with(|channels| channels.execute(client, &[]))?;
    let (Some(key), is_legacy) = channels.first().get_two::<String, bool>()? else {
        error!("livestore.instance has no key for notifications");
    };
    let digests = heads.clone().map(|(store, head)| (store_digest(&key, store), head));
    for payload in heads_payloads(source, digests) {
        NOTIFY.with(|notify| notify.execute(client, &["livestore_heads".into(), payload.into()]))?;
    }
    if is_legacy == Some(true) {
        for payload in heads_payloads(source, heads) {
            NOTIFY.with(|notify| notify.execute(client, &["livestore".into(), payload.into()]))?;
        }
    }
    Ok(())
}

/// The same for SQL: one element for each store.
#[pg_extern(sql = false)]
fn notify_heads(store_ids: Array<'_, &str>, heads: Array<'_, i64>, source: Option<&str>) -> spi::Result<()> {
    let heads: Vec<(&str, Option<i64>)> =
        store_ids.iter().zip(heads.iter()).filter_map(|(store, head)| Some((store?, head))).collect();
    Spi::connect_mut(|client| notify(client, heads.iter().copied(), source))
}
