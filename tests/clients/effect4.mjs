/**
 * Drives the client of LiveStore's development line (0.5), as far as the wire goes: Effect 4's RPC client over WebSocket
 * or HTTP, with the schemas of `@livestore/sync-cf`. That line is not on npm, so the schemas and the few lines around
 * them are written here after its sources, mistakes included; everything else that decides what is sent and accepted
 * comes from `effect`.
 *
 *     open  {client, dialect: 'cf-ws' | 'cf-http', url, storeId, payload?, backendId?, options?: {ping: {requestInterval}}}
 *     isConnected {client}           → over WebSocket only
 *     pull  {client, cursor?}        → {pages: [{batch, pageInfo}]}
 *     live  {client, sub, cursor?}     over WebSocket only; then events "page" and one last "end" or "fail"
 *     stop  {sub}                      answers when the stream has ended
 *     push  {client, batch}            one request, whatever the size
 *     close {client}
 *
 * A live pull starts again, from the last event that it has brought, where LiveStore's leader would start it again.
 */
import { emit, serve } from './driver/stdio.mjs'
import './driver/websocket.mjs'

import {
  Cause,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Schedule,
  Schema,
  Scope,
  Stream,
  SubscriptionRef,
} from 'effect4'
import { FetchHttpClient } from 'effect4/http'
import { Rpc, RpcClient, RpcGroup, RpcSerialization } from 'effect4/rpc'
import { Socket } from 'effect4/socket'

import { layerProtocol } from './driver/effect4-socket.mjs'
import { died, expected, interrupted, refuse } from './driver/errors.mjs'

class UnknownError extends Schema.TaggedError()('UnknownError', {
  cause: Schema.Defect(),
  note: Schema.optional(Schema.String),
  payload: Schema.optional(Schema.Any),
}) {}

class ServerAheadError extends Schema.TaggedError()('ServerAheadError', {
  minimumExpectedNum: Schema.Int,
  providedNum: Schema.Int,
}) {}

class BackendIdMismatchError extends Schema.TaggedError()('BackendIdMismatchError', {
  expected: Schema.String,
  received: Schema.String,
}) {}

/** The error of LiveStore's client for a lost connection. It pulls again after this error, and after no other. */
class IsOfflineError extends Schema.TaggedError()('IsOfflineError', { cause: Schema.Defect() }) {}

const Event = Schema.Struct({
  name: Schema.String,
  args: Schema.Any,
  seqNum: Schema.Int,
  parentSeqNum: Schema.Int,
  clientId: Schema.String,
  sessionId: Schema.String,
})

const Page = Schema.Struct({
  batch: Schema.Array(
    Schema.Struct({
      eventEncoded: Event,
      metadata: Schema.Option(Schema.TaggedStruct('SyncMessage.SyncMetadata', { createdAt: Schema.String })),
    }),
  ),
  pageInfo: Schema.Union([
    Schema.TaggedStruct('MoreUnknown', {}),
    Schema.TaggedStruct('MoreKnown', { remaining: Schema.Number }),
    Schema.TaggedStruct('NoMore', {}),
  ]),
  backendId: Schema.String,
})

const cursor = Schema.Option(Schema.Struct({ backendId: Schema.String, eventSequenceNumber: Schema.Int }))
const common = { storeId: Schema.String, payload: Schema.optional(Schema.Json) }

/** `SyncWsRpc` and `SyncHttpRpc` differ in that only the former can follow a log, by a field of its pull. */
const group = (name, pull) =>
  RpcGroup.make(
    Rpc.make(`${name}.Pull`, {
      payload: Schema.Struct({ ...common, ...pull, cursor }),
      success: Page,
      error: Schema.Union([UnknownError, BackendIdMismatchError]),
      stream: true,
    }),
    Rpc.make(`${name}.Push`, {
      payload: Schema.Struct({ ...common, batch: Schema.Array(Event), backendId: Schema.Option(Schema.String) }),
      success: Schema.Struct({}),
      error: Schema.Union([UnknownError, ServerAheadError, BackendIdMismatchError]),
    }),
  )

const dialects = {
  'cf-ws': {
    name: 'SyncWsRpc',
    group: group('SyncWsRpc', { live: Schema.Boolean }),
    protocol: (open, isConnected) =>
      layerProtocol({
        isConnected,
        retry: reconnecting,
        pingInterval: open.options?.ping?.requestInterval ?? 10_000,
      }).pipe(
        Layer.provide(Socket.layerWebSocket(connectionUrl(open, 'ws'))),
        Layer.provide(Socket.layerWebSocketConstructorGlobal),
      ),
  },
  'cf-http': {
    name: 'SyncHttpRpc',
    group: group('SyncHttpRpc', {}),
    protocol: (options) =>
      RpcClient.layerProtocolHttp({ url: connectionUrl(options, 'http') }).pipe(Layer.provide(FetchHttpClient.layer)),
  },
}

/** LiveStore's: 1 s, doubling to 30 s, with jitter. */
const reconnecting = Schedule.exponential('1 seconds').pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(30)))),
  Schedule.jittered,
)

/** @type {Map<string, { rpc: any, name: string, scope: any, storeId: string, payload: any, backendId: any, isConnected: any }>} */
const clients = new Map()
/** @type {Map<string, any>} The fibers of the live pulls, by `sub`. */
const subscriptions = new Map()

const clientNamed = (name) => clients.get(name) ?? refuse(`No client is open under the name ${name}`)

/** @returns {Promise<any>} Rejects with a `ClientFailure`. */
const run = async (effect) => {
  const exit = await Effect.runPromiseExit(effect)
  if (Exit.isSuccess(exit)) return exit.value
  throw failureOf(exit.cause)
}

const failureOf = (cause) => {
  const error = Cause.findErrorOption(cause)
  if (Option.isSome(error)) return expected(error.value)
  return Cause.hasInterruptsOnly(cause) ? interrupted() : died(Cause.squash(cause))
}

/** The payload goes into the URL as well, encoded here once and by `URLSearchParams` once more. */
const connectionUrl = ({ url, storeId, payload }, transport) => {
  const params = new URLSearchParams({ storeId })
  if (payload !== undefined) params.set('payload', encodeURIComponent(JSON.stringify(payload)))
  params.set('transport', transport)
  return `${url}?${params}`
}

const open = async ({ client, dialect, backendId, ...options }) => {
  if (clients.has(client)) refuse(`A client is open already under the name ${client}`)
  const { name, group, protocol } = dialects[dialect] ?? refuse(`Unknown dialect: ${dialect}`)
  const scope = await run(Scope.make())
  const isConnected = await run(SubscriptionRef.make(false))
  const layer = protocol(options, isConnected).pipe(Layer.provide(RpcSerialization.layerJson))
  const context = await run(Layer.buildWithScope(layer, scope))
  const rpc = await run(RpcClient.make(group).pipe(Effect.provide(context), Scope.provide(scope)))
  const { storeId, payload } = options
  clients.set(client, { rpc, name, scope, storeId, payload, backendId: Option.fromUndefinedOr(backendId), isConnected })
}

const isConnected = ({ client }) => SubscriptionRef.getUnsafe(clientNamed(client).isConnected)

/** @returns {Stream.Stream<any, any>} The pages of a pull, in the form in which the test reads them. */
const pages = ({ client, cursor, live }) => {
  const state = clientNamed(client)
  return Stream.suspend(() =>
    state.rpc[`${state.name}.Pull`]({
      storeId: state.storeId,
      payload: state.payload,
      live,
      cursor: Option.fromNullishOr(cursor).pipe(
        Option.map((eventSequenceNumber) => ({
          eventSequenceNumber,
          backendId: Option.getOrThrow(state.backendId),
        })),
      ),
    }),
  ).pipe(
    Stream.mapError(unknownEvenIfDisconnected),
    Stream.map(({ batch, pageInfo, backendId }) => {
      state.backendId = Option.some(backendId)
      return { batch: batch.map(eventOnTheWire), pageInfo }
    }),
  )
}

/** LiveStore looks for a lost connection where Effect 3 had it. In Effect 4 it is `error.reason`, so it finds none. */
const unknownEvenIfDisconnected = (error) =>
  error._tag === 'RpcClientError' && Socket.isSocketError(error.cause)
    ? new IsOfflineError({ cause: error.cause })
    : unknownIfNotDeclared(error)

/** As in LiveStore, a push that the connection did not survive fails with an `UnknownError`. */
const unknownIfNotDeclared = (error) =>
  error._tag === 'RpcClientError' ? new UnknownError({ cause: error }) : error

const eventOnTheWire = ({ eventEncoded, metadata }) => ({
  ...eventEncoded,
  createdAt: Option.getOrUndefined(metadata)?.createdAt,
})

const pull = async ({ client, cursor }) => ({
  pages: await run(Stream.runCollect(pages({ client, cursor, live: false }))),
})

const live = async ({ client, sub, cursor }) => {
  if (subscriptions.has(sub)) refuse(`A live pull is running already under the name ${sub}`)
  let last = cursor
  const handle = (value) => {
    last = value.batch.at(-1)?.seqNum ?? last
    emit({ event: 'page', sub, value })
  }
  const pulling = Effect.suspend(() => Stream.runForEach(pages({ client, cursor: last, live: true }), whileConnected(client, handle))).pipe(
    Effect.retry({ while: (error) => error._tag === 'IsOfflineError' }),
    Effect.onExit((exit) => Effect.sync(() => announceEnd(sub, exit))),
    Effect.forkIn(clientNamed(client).scope),
  )
  await run(Effect.map(pulling, (fiber) => subscriptions.set(sub, fiber)))
}

/** LiveStore's leader takes up a page only while it believes to be connected. */
const whileConnected = (client, handle) => (value) =>
  SubscriptionRef.changes(clientNamed(client).isConnected).pipe(
    Stream.filter((isConnected) => isConnected),
    Stream.runHead,
    Effect.andThen(Effect.sync(() => handle(value))),
  )

/** Each live pull ends with exactly one event. Being stopped is an end, not a failure. */
const announceEnd = (sub, exit) => {
  subscriptions.delete(sub)
  if (Exit.isSuccess(exit) || Exit.hasInterrupts(exit)) emit({ event: 'end', sub })
  else emit({ event: 'fail', sub, error: failureOf(exit.cause).plain })
}

const stop = async ({ sub }) => {
  await run(Fiber.interrupt(subscriptions.get(sub) ?? refuse(`No live pull is running under the name ${sub}`)))
}

const push = async ({ client, batch }) => {
  const { rpc, name, storeId, payload, backendId } = clientNamed(client)
  await run(Effect.mapError(rpc[`${name}.Push`]({ storeId, payload, batch, backendId }), unknownIfNotDeclared))
}

const close = async ({ client }) => {
  const { scope } = clientNamed(client)
  clients.delete(client)
  await run(Scope.close(scope, Exit.void))
}

serve({ open, isConnected, pull, live, stop, push, close })
