/**
 * Drives the sync backend of LiveStore 0.3.1 (`makeCfSync`), as `../clients/sync-backend.mjs` drives those of 0.4.0.
 *
 *     open        {client, dialect: 'cf-0.3', url, storeId, payload?, options?}
 *     connect     {client}                      waits until the socket is open; gives up quietly after 10 s
 *     isConnected {client}                    → boolean
 *     pull        {client, cursor?}           → {pages: [{batch, remaining}]}
 *     live        {client, sub, cursor?}        once a client; then events "page" and one last "end" or "fail"
 *     stop        {sub}                         answers when the stream has ended
 *     push        {client, batch}
 *     close       {client}
 *
 * There is no `ping` to call and no id of the log. A client connects when it is opened, and pulls once in its life,
 * live: a second `live` dies. `pull` is therefore the pull of another client, on a connection of its own, for as long as
 * pages remain.
 */
import { emit, serve } from '../clients/driver/stdio.mjs'
import '../clients/driver/websocket.mjs'

import { makeCfSync } from '@livestore/sync-cf'
import {
  Chunk,
  Effect,
  Exit,
  FetchHttpClient,
  Fiber,
  Layer,
  Option,
  Scope,
  Stream,
  SubscriptionRef,
} from '@livestore/utils/effect'

import { refuse } from '../clients/driver/errors.mjs'
import { failureOf, run } from './effect.mjs'

const dialects = { 'cf-0.3': makeCfSync }

/** @type {Map<string, { make: (scope: any) => Promise<any>, backend: any, scope: any, context: any }>} */
const clients = new Map()
/** @type {Map<string, any>} The fibers of the live pulls, by `sub`. */
const subscriptions = new Map()

const clientNamed = (name) => clients.get(name) ?? refuse(`No client is open under the name ${name}`)

const open = async ({ client, dialect, url, storeId, payload, options = {} }) => {
  if (clients.has(client)) refuse(`A client is open already under the name ${client}`)
  const dialectOf = dialects[dialect] ?? refuse(`Unknown dialect: ${dialect}`)

  const scope = await run(Scope.make())
  const context = await run(Layer.buildWithScope(FetchHttpClient.layer, scope))
  const make = (within) =>
    run(
      dialectOf({ url, ...options })({ storeId, clientId: client, payload }).pipe(
        Effect.provide(context),
        Scope.extend(within),
      ),
    )
  clients.set(client, { make, backend: await make(scope), scope, context })
}

const connect = async ({ client }) => {
  // Its own `connect` does nothing.
  const { isConnected } = clientNamed(client).backend
  await run(SubscriptionRef.waitUntil(isConnected, Boolean).pipe(Effect.timeoutOption(10_000)))
}

/** @returns {Stream.Stream<any, any>} The pages of the pull of a backend, in the form in which the test reads them. */
const pages = (backend, cursor) => {
  const from = Option.fromNullable(cursor).pipe(
    Option.map((seqNum) => ({ cursor: { global: seqNum, client: 0 }, metadata: Option.none() })),
  )
  return Stream.suspend(() => backend.pull(from)).pipe(
    Stream.map(({ batch, remaining }) => ({ batch: batch.map(eventOnTheWire), remaining })),
  )
}

const eventOnTheWire = ({ eventEncoded, metadata }) => ({
  ...eventEncoded,
  createdAt: Option.getOrUndefined(metadata)?.createdAt,
})

const pull = async ({ client, cursor }) => {
  const { make, scope } = clientNamed(client)
  // Inside the scope of the client, so that closing that one cuts the pull short.
  const ownScope = await run(Scope.fork(scope, scope.strategy))
  try {
    const finite = pages(await make(ownScope), cursor).pipe(Stream.takeUntil(({ remaining }) => remaining === 0))
    const pulling = await run(Effect.forkIn(Stream.runCollect(finite), ownScope))
    return { pages: Chunk.toReadonlyArray(await run(Fiber.join(pulling))) }
  } finally {
    await run(Scope.close(ownScope, Exit.void))
  }
}

const live = async ({ client, sub, cursor }) => {
  if (subscriptions.has(sub)) refuse(`A live pull is running already under the name ${sub}`)
  const { backend, scope, context } = clientNamed(client)
  const pulling = pages(backend, cursor).pipe(
    Stream.runForEach((value) => Effect.sync(() => emit({ event: 'page', sub, value }))),
    Effect.onExit((exit) => Effect.sync(() => announceEnd(sub, exit))),
    Effect.provide(context),
    Effect.forkIn(scope),
  )
  await run(Effect.map(pulling, (fiber) => subscriptions.set(sub, fiber)))
}

/** Each live pull ends with exactly one event. Being stopped is an end, not a failure. */
const announceEnd = (sub, exit) => {
  subscriptions.delete(sub)
  if (Exit.isSuccess(exit) || Exit.isInterrupted(exit)) emit({ event: 'end', sub })
  else emit({ event: 'fail', sub, error: failureOf(exit.cause).plain })
}

const stop = async ({ sub }) => {
  await run(Fiber.interrupt(subscriptions.get(sub) ?? refuse(`No live pull is running under the name ${sub}`)))
}

/** In the scope of the client: its own push would wait for its acknowledgement even beyond `close`. */
const push = async ({ client, batch }) => {
  const { backend, scope } = clientNamed(client)
  await run(Fiber.join(await run(Effect.forkIn(backend.push(batch), scope))))
}

const close = async ({ client }) => {
  const { scope } = clientNamed(client)
  clients.delete(client)
  await run(Scope.close(scope, Exit.void))
}

serve({
  open,
  connect,
  isConnected: ({ client }) => run(SubscriptionRef.get(clientNamed(client).backend.isConnected)),
  pull,
  live,
  stop,
  push,
  close,
})
