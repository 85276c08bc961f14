/**
 * Drives a full LiveStore 0.3.1 client, as `../clients/livestore.mjs` drives one of 0.4.0: the store, its SQLite
 * databases on disk and its sync processor, with LiveStore's own defaults. One process is one device of a user.
 *
 *     open   {url, storeId, clientId, directory, payload?}   works offline; syncs in the background from then on
 *     commit {event, args?}                                  by the name of an event of `todo-schema.mjs`
 *     todos  {}                                            → the rows of the table, ordered by id
 *     status {}                                            → {head, backendHead, pending, isConnected}
 *     close  {}
 *
 * When the store has ended, there is an event {"event":"shutdown","cause":{…}}. Errors of syncing don't end it: this
 * version logs them and goes on as if it were offline. It cannot be opened again in the same process, whose SQLite has
 * lost sight of the directory then ("no such vfs").
 */
import { emit, serve } from '../clients/driver/stdio.mjs'
import '../clients/driver/websocket.mjs'

import { makeAdapter } from '@livestore/adapter-node'
import { createStorePromise, makeShutdownDeferred } from '@livestore/livestore'
import { makeCfSync } from '@livestore/sync-cf'
import { Deferred, Effect, Exit, SubscriptionRef } from '@livestore/utils/effect'

import { refuse, toPlain } from '../clients/driver/errors.mjs'
import { failureOf, failureOfRejection, run } from './effect.mjs'
import { events, schema, tables } from './todo-schema.mjs'

/** The open store, the promise that it has ended, and its sync backend, to which the store gives no access. */
let store
let ended
let syncBackend

const opened = () => store ?? refuse('The store is not open')

const open = async ({ url, storeId, clientId, directory, payload }) => {
  if (ended !== undefined) refuse('The store has been opened already; start another process')
  const shutdownDeferred = await run(makeShutdownDeferred)
  ended = Effect.runPromiseExit(Deferred.await(shutdownDeferred)).then((exit) => {
    store = undefined
    emit({ event: 'shutdown', cause: Exit.isSuccess(exit) ? toPlain(exit.value) : failureOf(exit.cause).plain })
  })

  const backend = (args) => Effect.tap(makeCfSync({ url })(args), (made) => Effect.sync(() => (syncBackend = made)))
  store = await createStorePromise({
    schema,
    storeId,
    adapter: makeAdapter({ storage: { type: 'fs', baseDirectory: directory }, clientId, sync: { backend } }),
    syncPayload: payload,
    shutdownDeferred,
  }).catch((error) => {
    throw failureOfRejection(error)
  })
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
  const { syncProcessor, clientSession } = opened()
  const session = await run(syncProcessor.syncState.get)
  const leader = await run(clientSession.leaderThread.getSyncState.get)
  return {
    head: leader.localHead.global,
    backendHead: leader.upstreamHead.global,
    pending: session.pending.length + leader.pending.length,
    isConnected: await run(SubscriptionRef.get(syncBackend.isConnected)),
  }
}

const close = async () => {
  await opened().shutdown()
  await ended
}

serve({
  open,
  commit,
  todos: () => opened().query(tables.todos.orderBy('id', 'asc')),
  status,
  close,
})
