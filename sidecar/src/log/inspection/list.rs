//! Lists as JSON objects, one for each row: for the command line, which asks the database itself or a sidecar in front of it.

use serde::Deserialize;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{Inspection, ReadError};

/// The most rows of a list.
pub const MOST: i64 = 1000;

/// The bytes of args after which a list of events ends.
const BYTES: i64 = 1_000_000;

/// A list, and from where on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct List {
    pub of: Kind,
    /// The store whose events are wanted, or the beginning of the ids of stores.
    #[serde(default)]
    pub id: String,
    /// Events after this one; less than 0: the last ones, so many. For commits, a position.
    #[serde(default)]
    pub after: i64,
    #[serde(default = "most")]
    pub limit: i64,
}

fn most() -> i64 {
    MOST
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Stores,
    Events,
    /// Events of all stores, in the order of `livestore.commits`. Those after -1 are the end: a single row with the position.
    Commits,
    Subscriptions,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stores => "stores",
            Self::Events => "events",
            Self::Commits => "commits",
            Self::Subscriptions => "subscriptions",
        }
    }
}

impl List {
    /// Each row is JSON, as text. The parameters are `id`, `after`, the bytes of args, and `limit`.
    fn sql(&self) -> &'static str {
        match self.of {
            Kind::Stores if self.id.is_empty() => {
                "select json_build_object('store_id', s.store_id, 'head', s.head, 'backend_id', s.backend_id, 'created_at', s.created_at)::text
                 from livestore.inspect_newest_stores(9223372036854775807, $4::bigint) s
                 where $1 = '' and $2::bigint is not null and $3::bigint is not null
                 order by s.id desc"
            }
            Kind::Stores => {
                "select json_build_object('store_id', s.store_id, 'head', s.head, 'backend_id', s.backend_id, 'created_at', s.created_at)::text
                 from livestore.inspect_stores_by_prefix($1, '', 0, $4::bigint) s
                 where $2::bigint is not null and $3::bigint is not null
                 order by livestore.stream_name(s.store_id) collate \"C\", s.id"
            }
            // From the end back, parent by parent: what is left out because of its bytes is the beginning.
            Kind::Events if self.after < 0 => {
                "with recursive last as (
                     select e.*, 1 as count, octet_length(e.name) + octet_length(e.client_id) + octet_length(e.session_id)
                         + coalesce(octet_length(e.args::text), 0) as bytes
                     from livestore.pull_page($1, livestore.head($1) - 1, 1, 2147483647) e
                     union all
                     select e.*, l.count + 1, l.bytes + octet_length(e.name) + octet_length(e.client_id) + octet_length(e.session_id)
                         + coalesce(octet_length(e.args::text), 0)
                     from last l
                     cross join lateral livestore.pull_page($1, l.parent_seq_num - 1, 1, 2147483647) e
                     where l.count < -greatest($2::bigint, -$4::bigint) and l.bytes < $3::bigint and e.seq_num = l.parent_seq_num
                 )
                 select json_build_object('seq_num', e.seq_num, 'parent_seq_num', e.parent_seq_num, 'name', e.name, 'args', e.args,
                     'client_id', e.client_id, 'session_id', e.session_id, 'created_at', e.created_at)::text
                 from last e
                 order by e.seq_num"
            }
            Kind::Events => {
                "select json_build_object('seq_num', e.seq_num, 'parent_seq_num', e.parent_seq_num, 'name', e.name, 'args', e.args,
                     'client_id', e.client_id, 'session_id', e.session_id, 'created_at', e.created_at)::text
                 from livestore.pull_page($1, $2::bigint, $4::bigint::integer, $3::bigint::integer) e
                 order by e.seq_num"
            }
            Kind::Commits if self.after < 0 => {
                "select json_build_object('position', livestore.last_position())::text
                 where $1 = '' and $2::bigint is not null and $3::bigint is not null and $4::bigint is not null"
            }
            Kind::Commits => {
                "select row::text from (
                     select json_build_object('position', e.position, 'store_id', e.store_id, 'seq_num', e.seq_num, 'name', e.name,
                             'args', e.args, 'client_id', e.client_id, 'created_at', e.created_at, 'change', e.change) as row, e.position,
                         coalesce(sum(coalesce(octet_length(e.args::text), 0) + octet_length(e.name) + octet_length(e.client_id)) over (order by e.position rows between unbounded preceding and 1 preceding), 0)
                             as bytes_before
                     from livestore.read_all($2::bigint, null, least($4::bigint, 100)::integer) e
                     where $1 = ''
                 ) r
                 where r.bytes_before < $3::bigint order by r.position"
            }
            Kind::Subscriptions => {
                "select json_build_object('name', s.name, 'position', s.position, 'lag_events', s.lag_events, 'lag_seconds', s.lag_seconds,
                     'failures', s.failures, 'dead_letters', s.dead_letters, 'error', left(s.error, 500), 'polled_at', s.polled_at)::text
                 from livestore.subscriptions s where $1 = '' and $2::bigint is not null and $3::bigint is not null
                 order by s.name collate \"C\" limit $4::bigint"
            }
        }
    }

    /// Asks on a connection of its own.
    pub async fn ask(&self, client: &tokio_postgres::Client) -> Result<Vec<String>, tokio_postgres::Error> {
        let limit = self.limit.clamp(1, MOST);
        let parameters: [&(dyn ToSql + Sync); 4] = [&self.id, &self.after, &BYTES, &limit];
        client.query(self.sql(), &parameters).await?.iter().map(line).collect()
    }
}

impl Inspection {
    pub async fn list(&self, list: &List) -> Result<Vec<String>, ReadError> {
        let limit = list.limit.clamp(1, MOST);
        let rows = self
            .rows(list.sql(), vec![Box::new(list.id.clone()), Box::new(list.after), Box::new(BYTES), Box::new(limit)])
            .await?;
        rows.iter().map(|row| Ok(line(row)?)).collect()
    }
}

/// The object of a row on one line. JSON has line breaks between its tokens only, and args are as a client wrote them.
fn line(row: &Row) -> Result<String, tokio_postgres::Error> {
    Ok(row.try_get::<_, &str>(0)?.replace(['\n', '\r'], " "))
}
