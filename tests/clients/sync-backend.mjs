/**
 * Drives LiveStore's *sync backends*: the clients that speak to a server, without the store on top of them.
 *
 * One process holds many clients, each named by the test:
 *
 *     open        {client, dialect, url, storeId, payload?, options?, backendId?}
 *     connect     {client}                      waits for the first pong; gives up quietly after 10 s
 *     ping        {client}                      waits for the *next* pong, see the README
 *     isConnected {client}                    → boolean
 *     backendId   {client}                    → the id of the log that the client has seen, or null
 *     pull        {client, cursor?}           → {pages: [{batch, pageInfo, backendId}]}
 *     live        {client, sub, cursor?}        then events "page" and one last "end" or "fail"
 *     stop        {sub}                         answers when the stream has ended
 *     push        {client, batch}
 *     giveUp      {client}                      ends its pushes, as LiveStore does before it pushes anew; they fail
 *     close       {client}
 *     native      {origin, token}               from now on WebSockets are as in React Native
 *
 * A `cursor` is the last `seqNum` that the client has seen; without one it reads from the start.
 */
import { emit, serve } from './driver/stdio.mjs'
import './driver/websocket.mjs'

import WebSocket from 'ws'

import { makeHttpSync, makeWsSync } from '@livestore/sync-cf/client'
import { makeSyncBackend as makeElectricSync } from '@livestore/sync-electric'
import { makeSyncBackend as makeS2Sync } from '@livestore/sync-s2'
import {
  Chunk,
  Effect,
  Exit,
  FetchHttpClient,
  Fiber,
  KeyValueStore,
  Layer,
  Option,
  Scope,
  Stream,
  SubscriptionRef,
} from '@livestore/utils/effect'

import { failureOf, run } from './driver/effect3.mjs'
import { refuse } from './driver/errors.mjs'

/**
 * The functions by which each dialect makes its client from the `url` and the `options` of `open`.
 *
 * @typedef {import('@livestore/common').SyncBackend.SyncBackendConstructor<any>} Constructor
 * @type {Record<string, (options: { url: string }) => Constructor>}
 */
const dialects = {
  'cf-ws': makeWsSync,
  'cf-http': makeHttpSync,
  electric: ({ url, ...options }) => makeElectricSync({ endpoint: `${url}/api/electric`, ...options }),
  s2: ({ url, ...options }) => makeS2Sync({ endpoint: `${url}/api/s2`, ...options }),
}

/** The key under which a client keeps the id of the log it follows; a full client keeps it in its eventlog. */
const BACKEND_ID_KEY = 'backendId'

/** @type {Map<string, { backend: any, scope: any, storage: any, metadata: Map<number, any>, pushes: Set<any> }>} */
const clients = new Map()
/** @type {Map<string, any>} The fibers of the live pulls, by `sub`. */
const subscriptions = new Map()

const clientNamed = (name) => clients.get(name) ?? refuse(`No client is open under the name ${name}`)

/** React Native sends the Origin of the server, and takes headers as third argument: as docs/security.md sends a token there. */
const native = ({ origin, token }) => {
  globalThis.WebSocket = class extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols, { origin, headers: { Authorization: `Bearer ${token}` } })
    }
  }
}

/**
 * A client knows the id of the log from what it pulled, and cannot use a cursor before that. `backendId` is what a full
 * client has on disk when it starts again.
 */
const open = async ({ client, dialect, url, storeId, payload, options = {}, backendId }) => {
  if (clients.has(client)) refuse(`A client is open already under the name ${client}`)
  const make = dialects[dialect] ?? refuse(`Unknown dialect: ${dialect}`)

  const scope = await run(Scope.make())
  const context = await run(
    Layer.buildWithScope(Layer.mergeAll(KeyValueStore.layerMemory, FetchHttpClient.layer), scope),
  )
  const opened = await run(
    Effect.gen(function* () {
      const storage = yield* KeyValueStore.KeyValueStore
      if (backendId !== undefined) yield* storage.set(BACKEND_ID_KEY, backendId)
      const backend = yield* make({ url, ...options })({ storeId, clientId: client, payload })
      return { backend, storage }
    }).pipe(Effect.provide(context), Scope.extend(scope)),
  )
  clients.set(client, { ...opened, scope, metadata: new Map(), pushes: new Set() })
}

const backendId = async ({ client }) =>
  Option.getOrNull(await run(clientNamed(client).storage.get(BACKEND_ID_KEY)))

/** @returns {Stream.Stream<any, any>} The pages of a pull, in the form in which the test reads them. */
const pages = ({ client, cursor, live }) => {
  const { backend, storage, metadata } = clientNamed(client)
  const from = Option.fromNullable(cursor).pipe(
    // Some dialects resume from what came with an event, not from its number.
    Option.map((seqNum) => ({ eventSequenceNumber: seqNum, metadata: metadata.get(seqNum) ?? Option.none() })),
  )
  // Suspended, because a client throws when it is given a cursor but has no backend id.
  return Stream.suspend(() => backend.pull(from, { live })).pipe(
    Stream.tap(({ batch }) =>
      Effect.sync(() => batch.forEach((event) => metadata.set(event.eventEncoded.seqNum, event.metadata))),
    ),
    // A full client keeps the events of a page and the id of their log together.
    Stream.mapEffect(({ batch, pageInfo }) =>
      Effect.map(storage.get(BACKEND_ID_KEY), (backendId) => ({
        batch: batch.map(eventOnTheWire),
        pageInfo,
        backendId: Option.getOrUndefined(backendId),
      })),
    ),
  )
}

const eventOnTheWire = ({ eventEncoded, metadata }) => ({
  ...eventEncoded,
  createdAt: Option.getOrUndefined(metadata)?.createdAt,
})

const pull = async ({ client, cursor }) => ({
  pages: Chunk.toReadonlyArray(await run(Stream.runCollect(pages({ client, cursor, live: false })))),
})

const live = async ({ client, sub, cursor }) => {
  if (subscriptions.has(sub)) refuse(`A live pull is running already under the name ${sub}`)
  const pulling = pages({ client, cursor, live: true }).pipe(
    Stream.runForEach((value) => Effect.sync(() => emit({ event: 'page', sub, value }))),
    Effect.onExit((exit) => Effect.sync(() => announceEnd(sub, exit))),
    Effect.forkIn(clientNamed(client).scope),
  )
  await run(Effect.map(pulling, (fiber) => subscriptions.set(sub, fiber)))
}

const push = async ({ client, batch }) => {
  const { backend, scope, pushes } = clientNamed(client)
  const fiber = await run(Effect.forkIn(backend.push(batch), scope))
  pushes.add(fiber)
  try {
    await run(Fiber.join(fiber))
  } finally {
    pushes.delete(fiber)
  }
}

const giveUp = ({ client }) => run(Fiber.interruptAll(clientNamed(client).pushes))

/** Each live pull ends with exactly one event. Being stopped is an end, not a failure. */
const announceEnd = (sub, exit) => {
  subscriptions.delete(sub)
  if (Exit.isSuccess(exit) || Exit.isInterrupted(exit)) emit({ event: 'end', sub })
  else emit({ event: 'fail', sub, error: failureOf(exit.cause).plain })
}

const stop = async ({ sub }) => {
  await run(Fiber.interrupt(subscriptions.get(sub) ?? refuse(`No live pull is running under the name ${sub}`)))
}

const close = async ({ client }) => {
  const { scope } = clientNamed(client)
  clients.delete(client)
  await run(Scope.close(scope, Exit.void))
}

serve({
  open,
  connect: ({ client }) => run(Effect.scoped(clientNamed(client).backend.connect)),
  ping: ({ client }) => run(clientNamed(client).backend.ping),
  isConnected: ({ client }) => run(SubscriptionRef.get(clientNamed(client).backend.isConnected)),
  backendId,
  pull,
  live,
  stop,
  push,
  giveUp,
  close,
  native,
})
