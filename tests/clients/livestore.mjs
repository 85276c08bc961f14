/**
 * Drives a full LiveStore client: the store, its SQLite databases on disk and its sync processor, with LiveStore's own
 * defaults throughout. One process is one device of a user.
 *
 *     open   {url, storeId, clientId, directory, payload?, dialect?}   works offline; syncs in the background from then on
 *     commit {event, args?}                                  by the name of an event of `todo-schema.mjs`
 *     todos  {}                                            → the rows of the table, ordered by id
 *     status {}                                            → {head, backendHead, pending, isConnected}
 *     close  {}
 *
 * When the store has ended, there is an event {"event":"shutdown","cause":{…}}: after `close` (its `reason` is
 * "manual") or by itself, for one when the log on the server turns out to be another one ("backend-id-mismatch"). It
 * can be opened again then.
 */
import { emit, serve } from './driver/stdio.mjs'
import './driver/websocket.mjs'

import { makeAdapter } from '@livestore/adapter-node'
import { createStorePromise, makeShutdownDeferred } from '@livestore/livestore'
import { makeHttpSync, makeWsSync } from '@livestore/sync-cf/client'
import { makeSyncBackend as makeElectricSync } from '@livestore/sync-electric'
import { makeSyncBackend as makeS2Sync } from '@livestore/sync-s2'
import { Deferred, Effect, Exit } from '@livestore/utils/effect'

import { failureOf, failureOfRejection, run } from './driver/effect3.mjs'
import { refuse, toPlain } from './driver/errors.mjs'
import { events, schema, tables } from './todo-schema.mjs'

/** All but `cf-ws` take Node 22: undici of Node 20 does not get along with the requests that they make. */
const dialects = {
  'cf-ws': ({ url }) => makeWsSync({ url }),
  'cf-http': ({ url }) => makeHttpSync({ url, livePull: { pollInterval: 200 } }),
  electric: ({ url }) => makeElectricSync({ endpoint: `${url}/api/electric` }),
  s2: ({ url }) => makeS2Sync({ endpoint: `${url}/api/s2` }),
}

/** The open store, and the promise that it has ended. */
let store
let ended

const opened = () => store ?? refuse('The store is not open')

const open = async ({ url, storeId, clientId, directory, payload, dialect = 'cf-ws' }) => {
  if (store !== undefined) refuse('The store is open already; start another process for another one')
  const shutdownDeferred = await run(makeShutdownDeferred)
  let hasEnded = false
  ended = Effect.runPromiseExit(Deferred.await(shutdownDeferred)).then((exit) => {
    hasEnded = true
    store = undefined
    emit({ event: 'shutdown', cause: Exit.isSuccess(exit) ? toPlain(exit.value) : failureOf(exit.cause).plain })
  })

  const created = await createStorePromise({
    schema,
    storeId,
    adapter: makeAdapter({
      storage: { type: 'fs', baseDirectory: directory },
      clientId,
      sync: { backend: (dialects[dialect] ?? refuse(`Unknown dialect: ${dialect}`))({ url }) },
    }),
    syncPayload: payload,
    shutdownDeferred,
  }).catch((error) => {
    throw failureOfRejection(error)
  })
  if (!hasEnded) store = created
}

const commit = ({ event, args }) => {
  const define = events[event] ?? refuse(`No such event: ${event}`)
  opened().commit(define(args))
}

/**
 * The heads are the leader's, the part of the client that syncs. What the session has not handed to it yet counts as
 * pending too (an event on its way may count twice), so that `pending: 0` means that the server has everything.
 */
const status = async () => {
  const { session, leader } = await opened()._dev.syncStates()
  const network = await run(opened().networkStatus.get)
  return {
    head: leader.localHead.global,
    backendHead: leader.upstreamHead.global,
    pending: session.pending.length + leader.pending.length,
    isConnected: network.isConnected,
  }
}

const close = async () => {
  await opened().shutdownPromise()
  await ended
}

serve({
  open,
  commit,
  todos: () => opened().query(tables.todos.orderBy('id', 'asc')),
  status,
  close,
})
