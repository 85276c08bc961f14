/**
 * Drives full LiveStore clients: the store, its SQLite databases on disk and its sync processor, with LiveStore's own
 * defaults throughout. A client is a device of a user, named by its `clientId`. One process may hold several; a request
 * without a `clientId` is for the one that was opened last.
 *
 *     open      {url, storeId, clientId, directory, payload?, dialect?, materializers?}
 *                                                   works offline; syncs in the background from then on
 *     commit    {event, args?}                      by the name of an event of `driver/todo-schema.mjs`
 *     commitAll {event, args, pace}                 a commit for each of these `args`: all in one turn of the event loop ("burst"),
 *                                                   ten in a turn ("groups"), each in a turn of its own ("turns"), or one
 *                                                   every 50 ms ("typing")
 *     todos     {}                                → the rows of the table, ordered by id
 *     status    {}                                → {head, backendHead, pending, pendingInSession, pendingInLeader, isConnected}
 *     traffic   {}                                → {offered, acknowledged, failures, received}: the events that were pushed to the
 *                                                   backend so far, as [number, id]; how many pushes failed, by the name of the
 *                                                   error, "Interrupt" for those that the client gave up when a pull brought
 *                                                   events; and the number of the last event that the backend has brought
 *     ended     {}                                → the cause of the store's end, or null while it runs
 *     eventlog  {}                                → {head, events: [[number, id], …]}: what the client has on disk (Node 22)
 *     close     {}
 *
 * `materializers: "plain"` makes the second creation of a todo an error, as in most apps.
 *
 * When a store has ended, there is an event {"event":"shutdown","clientId":…,"cause":{…}}: after `close` (its `reason` is
 * "manual") or by itself, for one when the log on the server turns out to be another one ("backend-id-mismatch"). It
 * can be opened again then.
 */
import { emit, serve } from './driver/stdio.mjs'
import './driver/websocket.mjs'

import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setImmediate, setTimeout } from 'node:timers/promises'

import { makeAdapter } from '@livestore/adapter-node'
import * as livestore from '@livestore/livestore'
import { createStorePromise, makeShutdownDeferred } from '@livestore/livestore'
import { makeHttpSync, makeWsSync } from '@livestore/sync-cf/client'
import { makeSyncBackend as makeElectricSync } from '@livestore/sync-electric'
import { makeSyncBackend as makeS2Sync } from '@livestore/sync-s2'
import { Deferred, Effect, Exit, Stream } from '@livestore/utils/effect'

import { failureOf, failureOfRejection, run } from './driver/effect3.mjs'
import { refuse, toPlain } from './driver/errors.mjs'
import { makeTodoSchema } from './driver/todo-schema.mjs'

/** All but `cf-ws` take Node 22: undici of Node 20 does not get along with the requests that they make. */
const dialects = {
  'cf-ws': ({ url }) => makeWsSync({ url }),
  'cf-http': ({ url }) => makeHttpSync({ url, livePull: { pollInterval: 200 } }),
  electric: ({ url }) => makeElectricSync({ endpoint: `${url}/api/electric` }),
  s2: ({ url }) => makeS2Sync({ endpoint: `${url}/api/s2` }),
}

const models = {
  idempotent: makeTodoSchema(livestore),
  plain: makeTodoSchema(livestore, { isIdempotent: false }),
}

/**
 * The clients that have been opened, by their ids. Those that have ended have no `store`.
 *
 * @type {Map<string, { store?: any, model: any, directory: string, storeId: string, traffic: any, cause: any, ended: Promise<void> }>}
 */
const clients = new Map()
let latest

const clientNamed = (clientId = latest) => clients.get(clientId) ?? refuse('The store is not open')
const opened = (clientId) => clientNamed(clientId).store ?? refuse('The store is not open')

/** The same sync backend, with notes of what is pushed to it and how that ends, and of what it brings. */
const noting = (traffic, make) => (args) =>
  Effect.map(make(args), (backend) => ({
    ...backend,
    pull: (...args) =>
      Stream.tap(backend.pull(...args), ({ batch }) =>
        Effect.sync(() => (traffic.received = batch.at(-1)?.eventEncoded.seqNum ?? traffic.received)),
      ),
    push: (batch) => {
      const events = batch.map((event) => [event.seqNum, event.args?.id ?? null])
      traffic.offered.push(...events)
      return Effect.onExit(backend.push(batch), (exit) =>
        Effect.sync(() => {
          if (Exit.isSuccess(exit)) return traffic.acknowledged.push(...events)
          const { _tag } = failureOf(exit.cause).plain
          traffic.failures[_tag] = (traffic.failures[_tag] ?? 0) + 1
        }),
      )
    },
  }))

const open = async ({ url, storeId, clientId, directory, payload, dialect = 'cf-ws', materializers = 'idempotent' }) => {
  if (clients.get(clientId)?.cause === null) refuse('The store is open already; give another one another clientId')
  const makeBackend = (dialects[dialect] ?? refuse(`Unknown dialect: ${dialect}`))({ url })
  const model = models[materializers] ?? refuse(`Unknown materializers: ${materializers}`)
  const shutdownDeferred = await run(makeShutdownDeferred)
  const traffic = { offered: [], acknowledged: [], failures: {}, received: 0 }
  const client = { model, directory, storeId, traffic, cause: null }
  clients.set(clientId, client)
  latest = clientId
  client.ended = Effect.runPromiseExit(Deferred.await(shutdownDeferred)).then((exit) => {
    client.store = undefined
    client.cause = Exit.isSuccess(exit) ? toPlain(exit.value) : failureOf(exit.cause).plain
    emit({ event: 'shutdown', clientId, cause: client.cause })
  })

  const store = await createStorePromise({
    schema: model.schema,
    storeId,
    adapter: makeAdapter({
      storage: { type: 'fs', baseDirectory: directory },
      clientId,
      sync: { backend: noting(traffic, makeBackend) },
    }),
    syncPayload: payload,
    shutdownDeferred,
  }).catch((error) => {
    clients.delete(clientId)
    throw failureOfRejection(error)
  })
  if (client.cause === null) client.store = store
}

const commit = ({ clientId, event, args }) => {
  const { events } = clientNamed(clientId).model
  const define = events[event] ?? refuse(`No such event: ${event}`)
  opened(clientId).commit(define(args))
}

/** For each pace, the number of commits in one turn of the event loop, and the pause after them. */
const paces = {
  burst: { size: Infinity, pause: () => {} },
  groups: { size: 10, pause: () => setImmediate() },
  turns: { size: 1, pause: () => setImmediate() },
  typing: { size: 1, pause: () => setTimeout(50) },
}

const commitAll = async ({ clientId, event, args, pace }) => {
  const { size, pause } = paces[pace] ?? refuse(`Unknown pace: ${pace}`)
  for (const [index, one] of args.entries()) {
    if (index > 0 && index % size === 0) await pause()
    commit({ clientId, event, args: one })
  }
}

/**
 * The heads are the leader's, the part of the client that syncs. What the session has not handed to it yet counts as
 * pending too (an event on its way may count twice), so that `pending: 0` means that the server has everything.
 */
const status = async ({ clientId }) => {
  const { session, leader } = await opened(clientId)._dev.syncStates()
  const network = await run(opened(clientId).networkStatus.get)
  return {
    head: leader.localHead.global,
    backendHead: leader.upstreamHead.global,
    pending: session.pending.length + leader.pending.length,
    pendingInSession: session.pending.length,
    pendingInLeader: leader.pending.length,
    isConnected: network.isConnected,
  }
}

/** Read beside the client, from its file: there is nothing to ask once its store has ended. */
const eventlog = async ({ clientId }) => {
  const { directory, storeId } = clientNamed(clientId)
  const { DatabaseSync } = await import('node:sqlite')
  const folder = join(directory, storeId)
  const file = (await readdir(folder)).find((name) => name.startsWith('eventlog@') && name.endsWith('.db'))
  const database = new DatabaseSync(join(folder, file), { readOnly: true })
  try {
    const { head } = database.prepare('select head from __livestore_sync_status').get() ?? { head: 0 }
    const rows = database.prepare('select seqNumGlobal as number, argsJson as args from eventlog order by 1').all()
    return { head, events: rows.map(({ number, args }) => [number, JSON.parse(args)?.id ?? null]) }
  } finally {
    database.close()
  }
}

const close = async ({ clientId }) => {
  const { store, ended } = clientNamed(clientId)
  await (store ?? refuse('The store is not open')).shutdownPromise()
  await ended
}

serve({
  open,
  commit,
  commitAll,
  todos: ({ clientId }) => {
    const { todos } = clientNamed(clientId).model.tables
    return opened(clientId).query(todos.orderBy('id', 'asc'))
  },
  status,
  traffic: ({ clientId }) => clientNamed(clientId).traffic,
  ended: ({ clientId }) => clientNamed(clientId).cause,
  eventlog,
  close,
})
