//! The commit log, `livestore.commits`: every transaction that appends takes positions for its events when it commits.
//!
//! A transaction takes its positions under a lock that it holds until its commit is visible, so positions become visible in
//! their order. (NOTIFY holds such a lock at the commit anyway.) It must be the last lock that the transaction takes: a
//! deferred trigger that appends could otherwise wait for the row of a store that is locked by a transaction which waits for
//! this lock. Therefore positions are taken after all deferred triggers have run.

use std::cell::{Cell, RefCell};

use pgrx::callbacks::{PgSubXactCallbackEvent, PgXactCallbackEvent, register_subxact_callback, register_xact_callback};
use pgrx::pg_sys::BuiltinOid::{INT4ARRAYOID, INT8ARRAYOID, INT8OID, TEXTARRAYOID, TEXTOID};
use pgrx::prelude::*;

use crate::roles::RunsAs;
use crate::statement::Statement;

/// The change of a store's log by a transaction.
#[derive(Clone, Copy)]
pub struct Advance {
    /// `livestore.stores.id`.
    pub store: i64,
    /// The head afterwards, and how many events were appended, which are the last ones up to it.
    pub upto: i64,
    pub events: i32,
}

/// Another change of a store.
#[derive(Clone)]
struct Change {
    /// `reset`, `drop`, `move`, `renew`, `rewrite`, `leave` or `arrive`.
    kind: String,
    store_id: String,
}

/// An advance, and the subtransaction that has made it.
struct Entry {
    advance: Advance,
    /// Then the advance has a single position, and the number of the store afterwards in place of its head; of a rewrite, the event.
    change: Option<Change>,
    subtransaction: pg_sys::SubTransactionId,
}

thread_local! {
    /// The appends of this transaction, in their order.
    static ENTRIES: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
    static IS_REGISTERED: Cell<bool> = const { Cell::new(false) };
    /// `lock_timeout` of the session, while it does not hold.
    static LOCK_TIMEOUT: Cell<Option<i32>> = const { Cell::new(None) };

    /// The last position that this session took; 0 if it took none.
    static LAST_POSITION: Cell<i64> = const { Cell::new(0) };

    static TAKE_POSITION: Statement = const {
        Statement::new("select pg_catalog.nextval('livestore.commit_positions'::pg_catalog.regclass)", &[])
    };
    /// The last positions that are taken. Not read at each commit: serializable transactions that read it would all conflict.
    static TAKEN_POSITIONS: Statement = const {
        Statement::new(
            "select (select pg_catalog.max(c.position) from livestore.commits c),
                 (select i.pruned_commits from livestore.instance i order by i.created_at limit 1)",
            &[],
        )
    };
    static SET_LAST_POSITION: Statement = const {
        Statement::new(
            "select pg_catalog.setval('livestore.commit_positions'::pg_catalog.regclass, $1)",
            &[INT8OID],
        )
    };
    static WRITE: Statement = const {
        Statement::new(
            "insert into livestore.commits values ($1, $2, $3, $4, $5, pg_catalog.clock_timestamp(), $6, $7)",
            &[INT8OID, INT8OID, INT8ARRAYOID, INT8ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TEXTARRAYOID],
        )
    };

    static NOTIFY: Statement =
        const { Statement::new("select pg_catalog.pg_notify('livestore_commits', $1)", &[TEXTOID]) };
}

/// Appends to a store that come one after the other are one entry up to about this number of events. A reader of the commit log finds its
/// place in an entry by reading it from the end.
const ENTRY: i32 = 1000;

/// Notes what this transaction appends.
pub fn note(advances: impl IntoIterator<Item = Advance>) {
    let subtransaction = begin();
    ENTRIES.with_borrow_mut(|entries| {
        for advance in advances {
            match entries.last_mut() {
                Some(last)
                    if last.subtransaction == subtransaction
                        && last.change.is_none()
                        && last.advance.store == advance.store
                        && last.advance.events < ENTRY =>
                {
                    last.advance.upto = advance.upto;
                    last.advance.events = last.advance.events.saturating_add(advance.events);
                }
                _ => entries.push(Entry { advance, change: None, subtransaction }),
            }
        }
    });
}

/// The same for a store that is reset, dropped, moved or given a new backend id, or an event of which is rewritten. `number_afterwards` is
/// `livestore.stores.id` afterwards, or 0; for a rewrite, the event.
#[pg_extern(sql = false)]
fn note_change(store: i64, number_afterwards: i64, change: &str, store_id: &str) {
    let advance = Advance { store, upto: number_afterwards, events: 1 };
    let change = Some(Change { kind: change.into(), store_id: store_id.into() });
    let subtransaction = begin();
    ENTRIES.with_borrow_mut(|entries| entries.push(Entry { advance, change, subtransaction }));
}

/// Sees to it that the entry is written when this transaction commits. Returns the current subtransaction.
fn begin() -> pg_sys::SubTransactionId {
    if !IS_REGISTERED.replace(true) {
        register_xact_callback(PgXactCallbackEvent::PreCommit, take_positions);
        register_xact_callback(PgXactCallbackEvent::PrePrepare, refuse_to_prepare);
        // A transaction whose entries were all rolled back has used up a callback then: the next one has to register its own.
        register_xact_callback(PgXactCallbackEvent::Prepare, forget);
        register_xact_callback(PgXactCallbackEvent::Commit, forget);
        register_xact_callback(PgXactCallbackEvent::Abort, forget);
        register_subxact_callback(PgSubXactCallbackEvent::AbortSub, forget_subtransaction);
    }
    // SAFETY: it reads a variable.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

fn forget() {
    ENTRIES.take();
    IS_REGISTERED.set(false);
    if let Some(former) = LOCK_TIMEOUT.take() {
        // SAFETY: Postgres runs one thread.
        unsafe { pg_sys::LockTimeout = former };
    }
}

/// Subtransactions are counted up: those inside of this one have greater numbers, and all others that have greater ones are to come.
fn forget_subtransaction(aborted: pg_sys::SubTransactionId, _parent: pg_sys::SubTransactionId) {
    ENTRIES.with_borrow_mut(|entries| entries.retain(|entry| entry.subtransaction < aborted));
}

/// Positions are taken at the commit, by the session that has noted what was appended.
fn refuse_to_prepare() {
    if ENTRIES.with_borrow(|entries| !entries.is_empty()) {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "a transaction that has changed a store cannot be prepared"
        );
    }
}

/// Writes the entry of this transaction.
fn take_positions() {
    let entries = ENTRIES.take();
    // SAFETY: the names end with a NUL, and what does not exist may be missing.
    let turn = unsafe {
        let schema = pg_sys::get_namespace_oid(c"livestore".as_ptr(), true);
        pg_sys::get_relname_relid(c"commit_turn".as_ptr(), schema)
    };
    // The extension may have been dropped by this transaction.
    if entries.is_empty() || turn == pg_sys::Oid::INVALID {
        return;
    }
    let events: i64 = entries.iter().map(|entry| i64::from(entry.advance.events)).sum();
    let of = |field: fn(&Advance) -> i64| entries.iter().map(|entry| field(&entry.advance)).collect::<Vec<_>>();
    let counts: Vec<i32> = entries.iter().map(|entry| entry.advance.events).collect();
    let has_changes = entries.iter().any(|entry| entry.change.is_some());
    let of_changes = |field: fn(&Change) -> &str| {
        let texts =
            || entries.iter().map(|entry| entry.change.as_ref().map(|change| field(change).to_owned())).collect();
        has_changes.then(|| -> Vec<Option<String>> { texts() })
    };
    let _owner = RunsAs::owner();
    lock(turn);
    let _snapshot = Snapshot::new();
    let written = Spi::connect_mut(|client| {
        let next: i64 = TAKE_POSITION.with(|take| take.execute(client, &[]))?.first().get(1)?.unwrap_or_default();
        let mut first = next;
        // Logical replication and restores of single tables leave the sequence behind.
        if LAST_POSITION.get() == 0 || next <= LAST_POSITION.get() {
            let taken = TAKEN_POSITIONS.with(|taken| taken.execute(client, &[]))?.first();
            first = next.max(taken.get(1)?.unwrap_or(0) + 1).max(taken.get(2)?.unwrap_or(0) + 1);
        }
        let position = first + events - 1;
        LAST_POSITION.set(position);
        if position != next {
            SET_LAST_POSITION.with(|set| set.execute(client, &[position.into()]))?;
        }
        let arguments = [
            first.into(),
            position.into(),
            of(|advance| advance.store).into(),
            of(|advance| advance.upto).into(),
            counts.clone().into(),
            of_changes(|change| &change.kind).into(),
            of_changes(|change| &change.store_id).into(),
        ];
        WRITE.with(|write| write.execute(client, &arguments))?;
        NOTIFY.with(|notify| notify.execute(client, &[position.to_string().into()])).map(drop)
    });
    if let Err(error) = written {
        error!("the commit log cannot be written: {error}");
    }
}

/// Waits, as long as it takes, for the transactions that are taking their positions. `lock_timeout` is ignored, here and in what is left
/// of the commit, where NOTIFY waits for a lock of its own: it would fail a commit only because others commit at the same time.
fn lock(turn: pg_sys::Oid) {
    // SAFETY: Postgres runs one thread; the relation exists, and the lock is given back at the end of the transaction.
    unsafe {
        LOCK_TIMEOUT.set(Some(pg_sys::LockTimeout));
        pg_sys::LockTimeout = 0;
        pg_sys::LockRelationOid(turn, pg_sys::ExclusiveLock as pg_sys::LOCKMODE);
    }
}

/// An active snapshot, for as long as this lives: at the commit there is none.
struct Snapshot;

impl Snapshot {
    fn new() -> Self {
        // SAFETY: a transaction has a snapshot.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
        Self
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // While an error is on its way, the end of the transaction does this.
        if !std::thread::panicking() {
            // SAFETY: it is the one that was pushed last.
            unsafe { pg_sys::PopActiveSnapshot() };
        }
    }
}
