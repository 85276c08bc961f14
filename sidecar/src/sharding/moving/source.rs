//! The shard that a slot or a store leaves.

use tokio_postgres::types::ToSql;

use super::super::ShardsError;
use super::super::session::Session;
use super::subject::Subject;

/// A log, as the shard that it leaves knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `livestore.stores.id`.
    pub number: i64,
    pub store_id: String,
    pub head: i64,
    pub backend_id: String,
    /// The table of its events, as SQL.
    pub table: String,
    pub has_own_table: bool,
    pub created_at: String,
    /// How many of its events were rewritten.
    pub rewrites: i64,
}

impl Log {
    /// Whether it has only grown since it was like this.
    pub fn continues(&self, before: &Self) -> bool {
        let fixed = |log: &Self| (log.number, log.backend_id.clone(), log.has_own_table, log.rewrites);
        fixed(self) == fixed(before) && self.head >= before.head
    }
}

/// A move that did not end.
pub struct Unfinished {
    pub id: i64,
    /// By which the other shard knows it.
    pub token: String,
    pub subject: Subject,
    /// The name of the shard to which it goes.
    pub shard: String,
}

/// The logs of a subject, as the current transaction sees them.
pub async fn logs(session: &Session, subject: &Subject, slot_count: i32) -> Result<Vec<Log>, ShardsError> {
    let query = format!(
        "select s.id, s.store_id, s.head, s.backend_id, s.eventlog::text, s.eventlog <> 'livestore.eventlog_1'::regclass, s.created_at::text,
             (select count(*) from livestore.rewritten_events r where r.store = s.id)
         from livestore.stores s where {} order by s.id",
        subject.matches("s.store_id", slot_count)
    );
    let rows = session.rows(&query, &[subject.parameter()]).await?;
    let log = |row| {
        Ok(Log {
            number: session.read(row, 0)?,
            store_id: session.read(row, 1)?,
            head: session.read(row, 2)?,
            backend_id: session.read(row, 3)?,
            table: session.read(row, 4)?,
            has_own_table: session.read(row, 5)?,
            created_at: session.read(row, 6)?,
            rewrites: session.read(row, 7)?,
        })
    };
    rows.iter().map(log).collect()
}

/// Keeps others from creating stores here, and from giving the shard other slots. Also takes the row out of the sight of transactions that
/// have an older snapshot: they fail, instead of creating a store that is another shard's.
pub async fn lock_shard(session: &Session) -> Result<(), ShardsError> {
    session.run("update livestore.shard set number = number").await
}

/// Keeps others from writing to the stores of a subject, and from creating some.
pub async fn lock(session: &Session, subject: &Subject, slot_count: i32) -> Result<(), ShardsError> {
    lock_shard(session).await?;
    // In the order of pushes.
    let rows = format!(
        "select from livestore.stores s where {} order by s.store_id collate \"C\" for update",
        subject.matches("s.store_id", slot_count)
    );
    session.rows(&rows, &[subject.parameter()]).await.map(drop)
}

/// Takes the right to a subject from this shard, whose stores are locked. Their events stay for readers of the commit log. Sidecars are told.
/// Returns the number and the token of the move.
pub async fn give_away(
    session: &Session,
    subject: &Subject,
    slot_count: i32,
    to: &str,
) -> Result<(i64, String), ShardsError> {
    let (slot, store_id) = subject.columns();
    session.rows("select livestore._mend_row_numbers('livestore.shard_moves')", &[]).await?;
    let query =
        "insert into livestore.shard_moves (slot, store_id, shard) values ($1, $2, $3) returning id, token::text";
    let row = session.row(query, &[&slot, &store_id, &to]).await?;
    let (id, token): (i64, String) = (session.read(&row, 0)?, session.read(&row, 1)?);
    let departed = format!(
        "insert into livestore.departed_stores (id, store_id, head, backend_id, eventlog, created_at, move)
         select s.id, s.store_id, s.head, s.backend_id, s.eventlog, s.created_at, $2::bigint from livestore.stores s where {}",
        subject.matches("s.store_id", slot_count)
    );
    session.rows(&departed, &[subject.parameter(), &id]).await?;
    let gone = "delete from livestore.stores s using livestore.departed_stores d where d.move = $1 and s.id = d.id";
    session.rows(gone, &[&id]).await?;
    subject.put(session, false).await?;
    tell(
        session,
        "leave",
        "select d.id, 0::bigint, d.store_id from livestore.departed_stores d where d.move = $1",
        &id,
    )
    .await?;
    Ok((id, token))
}

/// Takes back a move that the other shard knows nothing of.
pub async fn take_back(session: &Session, Unfinished { id, subject, .. }: &Unfinished) -> Result<(), ShardsError> {
    lock_shard(session).await?;
    let is_there = "select from livestore.shard_moves m where m.id = $1 and m.finished_at is null for update";
    if session.rows(is_there, &[id]).await?.is_empty() {
        return Ok(());
    }
    subject.put(session, true).await?;
    session
        .rows(
            "insert into livestore.stores (id, store_id, head, backend_id, eventlog, created_at) overriding system value
             select d.id, d.store_id, d.head, d.backend_id, d.eventlog, d.created_at from livestore.departed_stores d where d.move = $1",
            &[id],
        )
        .await?;
    tell(session, "arrive", "select d.id, d.id, d.store_id from livestore.departed_stores d where d.move = $1", id)
        .await?;
    session.rows("delete from livestore.departed_stores d where d.move = $1", &[id]).await?;
    session.rows("delete from livestore.shard_moves m where m.id = $1", &[id]).await.map(drop)
}

/// Notes in the commit log that stores come or go, and wakes the sidecars. The query returns their numbers, before and afterwards, and ids.
pub async fn tell(
    session: &Session,
    change: &str,
    query: &str,
    parameter: &(dyn ToSql + Sync),
) -> Result<(), ShardsError> {
    let notes = format!(
        "select livestore._note_change(c.number, c.afterwards, '{change}', c.store_id) from ({query}) c(number, afterwards, store_id) order by c.number"
    );
    session.rows(&notes, &[parameter]).await?;
    let heads = format!(
        "select livestore._notify_heads(array_agg(c.store_id), array_agg(null::bigint))
         from ({query}) c(number, afterwards, store_id) having count(*) > 0"
    );
    session.rows(&heads, &[parameter]).await.map(drop)
}

/// The moves from here that were interrupted. `waits`: also for the end of one that is being committed, although nobody waits for the answer
/// any more.
pub async fn unfinished(session: &Session, waits: bool) -> Result<Vec<Unfinished>, ShardsError> {
    let query = "select m.id, m.token::text, m.slot, m.store_id, m.shard from livestore.shard_moves m
         where m.finished_at is null and not m.is_arrival order by m.id";
    session.begin_as_owner(false).await?;
    if waits {
        lock_shard(session).await?;
    }
    let rows = session.rows(query, &[]).await?;
    session.rollback().await?;
    let unfinished = |row| {
        Ok(Unfinished {
            id: session.read(row, 0)?,
            token: session.read(row, 1)?,
            subject: Subject::read(session, row, 2)?,
            shard: session.read(row, 4)?,
        })
    };
    rows.iter().map(unfinished).collect()
}

/// Whether a store is here, or one of this name was.
pub async fn knows(session: &Session, store_id: &str) -> Result<bool, ShardsError> {
    let query = "select exists (select from livestore.stores s where s.store_id = $1) or exists (select from livestore.dropped_stores d where d.store_id = $1)";
    session.value(query, &[&store_id]).await
}

/// Notes that a move has ended: once the commit log is pruned up to here, the events may go.
pub async fn finish(session: &Session, id: i64) -> Result<(), ShardsError> {
    finish_each(session, "m.id = $1::bigint", &[&id]).await
}

/// The same for moves from here of a subject that comes back: they have ended, even if the command did not live to note it.
pub async fn finish_earlier(session: &Session, subject: &Subject) -> Result<(), ShardsError> {
    let (slot, store_id) = subject.columns();
    let earlier = "m.finished_at is null and not m.is_arrival and (m.slot = $1::integer or m.store_id = $2::text)";
    finish_each(session, earlier, &[&slot, &store_id]).await
}

async fn finish_each(session: &Session, moves: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<(), ShardsError> {
    let departed = format!(
        "update livestore.departed_stores d set position = livestore.last_position()
         from livestore.shard_moves m where m.id = d.move and {moves}"
    );
    session.rows(&departed, parameters).await?;
    let finished = format!("update livestore.shard_moves m set finished_at = clock_timestamp() where {moves}");
    session.rows(&finished, parameters).await.map(drop)
}
