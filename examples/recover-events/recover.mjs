#!/usr/bin/env node
/**
 * Prints SQL that commits the events which a LiveStore 0.4 client has stored and never uploaded. See
 * docs/known-problems.md for when to use it, and for where the client's database is.
 *
 *     node recover.mjs STORE_ID EVENTLOG.db [PENDING.json] > recover.sql
 *     psql "$DATABASE_URL" -f recover.sql
 *
 * PENDING.json holds what the app's session still had in memory, as [{name, args}, …] in the order of the commits.
 * Needs Node 22.13 or later. It only reads the database: give it a copy.
 */
import { readFileSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'

const [storeId, eventlog, pendingFile] = process.argv.slice(2)
if (eventlog === undefined) {
  console.error('usage: node recover.mjs STORE_ID EVENTLOG.db [PENDING.json]')
  process.exit(2)
}

const database = new DatabaseSync(eventlog, { readOnly: true })
/** The last event that the client knows to be in the log of the server. */
const { head } = database.prepare('select head from __livestore_sync_status').get()
/** Events with a `seqNumClient` other than 0 are local to the client (`clientOnly`). */
const stored = database
  .prepare(
    `select name, argsJson as args, clientId, sessionId from eventlog
     where seqNumGlobal > ? and seqNumClient = 0 order by seqNumGlobal`,
  )
  .all(head)

/** What is in the database and in memory is in memory at its place in the order of the commits. */
const merge = (pending) => {
  const inMemory = new Map()
  const key = ({ name, args }) => JSON.stringify([name, args])
  for (const event of pending) inMemory.set(key(event), (inMemory.get(key(event)) ?? 0) + 1)
  const earlier = stored.filter((event) => {
    const count = inMemory.get(key(event)) ?? 0
    inMemory.set(key(event), count - 1)
    return count <= 0
  })
  return [...earlier, ...pending]
}

const { clientId, sessionId } =
  stored[0] ?? database.prepare('select clientId, sessionId from eventlog order by seqNumGlobal desc').get() ?? {}
const pending =
  pendingFile === undefined
    ? []
    : JSON.parse(readFileSync(pendingFile, 'utf8')).map((event) => ({
        clientId,
        sessionId,
        ...event,
        args: JSON.stringify(event.args ?? {}),
      }))
const lost = merge(pending)

const quote = (text) => (text == null ? 'null' : `'${text.replaceAll("'", "''")}'`)
const rows = lost.map(
  ({ name, args, clientId, sessionId }, n) =>
    `  (${n}, ${quote(name)}, ${quote(args)}::json, ${quote(clientId ?? 'recovered')}, ${quote(sessionId ?? 'recovered')})`,
)

console.error(`${lost.length} events were not uploaded; the client has the log up to ${head}`)
if (lost.length > 0)
  console.log(`\\set ON_ERROR_STOP on
set standard_conforming_strings = on;
begin;
create temporary table lost (n integer, name text, args json, client_id text, session_id text) on commit drop;
insert into lost values
${rows.join(',\n')};

-- Some of them may be in the log: the client pushed them and did not hear that they were accepted. These are left out,
-- one for one, so that this file can be run again.
with log as (
    select name, coalesce(args::text, '{}') args, client_id, session_id,
        row_number() over (partition by name, args::text, client_id, session_id order by seq_num) k
    from livestore.events where store_id = ${quote(storeId)} and seq_num > ${head}
), numbered as (
    select *, row_number() over (partition by name, args::text, client_id, session_id order by n) k from lost
), missing as (
    select * from numbered m where not exists (
        select from log l
        where (l.name, l.args, l.client_id, l.session_id, l.k) = (m.name, m.args::text, m.client_id, m.session_id, m.k)
    ) order by n
)
select count(livestore.commit(${quote(storeId)}, name, args, client_id, session_id)) as recovered from missing;
commit;`)
