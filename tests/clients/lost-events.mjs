/**
 * Shows how LiveStore 0.4 loses events while two clients commit at the same moment (docs/known-problems.md): two processes on one
 * store, with unmodified packages. It takes any backend of `makeWsSync`, and exits with 1 if something was lost.
 *
 *     node lost-events.mjs ws://127.0.0.1:8787 [rounds]
 */
import { fork } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const EVENTS = 60
const PAUSE = 30
/** The time that a slow device needs between two steps of a rebase, on a fast one. LiveStore's own parameters. */
const simulation = {
  clientSessionSyncProcessor: {
    pull: {
      '1_before_leader_push_fiber_interrupt': 15,
      '2_before_leader_push_queue_clear': 0,
      '3_before_rebase_rollback': 0,
      '4_before_leader_push_queue_offer': 0,
      '5_before_leader_push_fiber_run': 0,
    },
  },
}

/** One client: commits when it is told to, and says what has become of it when it has settled. */
const client = async ([clientId, url, storeId, directory]) => {
  const { makeAdapter } = await import('@livestore/adapter-node')
  const livestore = await import('@livestore/livestore')
  const { makeWsSync } = await import('@livestore/sync-cf/client')
  const { Deferred, Effect } = await import('@livestore/utils/effect')
  const { Events, Schema, State, createStorePromise, makeSchema, makeShutdownDeferred } = livestore

  const columns = { id: State.SQLite.text({ primaryKey: true }) }
  const todos = State.SQLite.table({ name: 'todos', columns })
  const events = { created: Events.synced({ name: 'created', schema: Schema.Struct({ id: Schema.String }) }) }
  const materializers = State.SQLite.materializers(events, { created: ({ id }) => todos.insert({ id }) })
  const schema = makeSchema({ events, state: State.SQLite.makeState({ tables: { todos }, materializers }) })

  const storage = { type: 'fs', baseDirectory: directory }
  const shutdownDeferred = await Effect.runPromise(makeShutdownDeferred)
  let hasStopped = false
  Effect.runPromiseExit(Deferred.await(shutdownDeferred)).then(() => (hasStopped = true))
  const store = await createStorePromise({
    schema,
    storeId,
    adapter: makeAdapter({ storage, clientId, sync: { backend: makeWsSync({ url }) } }),
    params: { simulation },
    shutdownDeferred,
  })
  while (!(await Effect.runPromise(store.networkStatus.get)).isConnected) await sleep(50)
  process.send('ready')
  await new Promise((resolve) => process.once('message', resolve))

  let committed = 0
  for (; committed < EVENTS && !hasStopped; committed++) {
    store.commit(events.created({ id: `${clientId}${committed}` }))
    await sleep(PAUSE)
  }
  let last = {}
  for (let tries = 0; tries < 40 && !hasStopped; tries++) {
    const { session, leader } = await store._dev.syncStates()
    const notUploaded = session.pending.length + leader.pending.length
    last = { inLog: leader.upstreamHead.global, notUploaded, todos: store.query(todos).length }
    if (last.inLog === 2 * EVENTS && notUploaded === 0) break
    await sleep(250)
  }
  process.send({ client: clientId, committed, ...last, hasStopped })
  process.disconnect()
}

const round = async (url) => {
  const directory = mkdtempSync(join(tmpdir(), 'lost-events-'))
  const storeId = `lost-events-${Date.now()}`
  const clients = ['a', 'b'].map((name) =>
    fork(fileURLToPath(import.meta.url), ['client', name, url, storeId, join(directory, name)], {
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    }),
  )
  const next = (child) => new Promise((resolve) => child.once('message', resolve))
  await Promise.all(clients.map(next))
  for (const child of clients) child.send('go')
  const results = await Promise.all(clients.map(next))
  for (const child of clients) child.kill()
  rmSync(directory, { recursive: true, force: true })
  return results
}

const [first, ...rest] = process.argv.slice(2)
if (first === 'client') {
  await client(rest)
  process.exit()
} else {
  let good = 0
  const rounds = Number(rest[0] ?? 5)
  for (let n = 1; n <= rounds; n++) {
    const results = await round(first)
    const isGood = results.every(({ inLog, todos }) => inLog === 2 * EVENTS && todos === 2 * EVENTS)
    if (isGood) good++
    console.log(`round ${n}: ${isGood ? 'good' : 'lost'}`, ...results.map((result) => JSON.stringify(result)))
  }
  console.log(`${good} of ${rounds} rounds converged`)
  process.exit(good === rounds ? 0 : 1)
}
