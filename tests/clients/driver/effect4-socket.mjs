/**
 * The connection of LiveStore's development line, after what its `RpcClient.ts` does (`@livestore/utils`, on Effect 4): it pings
 * by itself, knows whether it is connected, and comes back after every loss. Two things about it decide what a server can do:
 *
 * - If the connection closes, every request under way fails, and so does every request until there is a connection again.
 * - If two pings in a row bring no frame, or a connection cannot be opened, no request fails. Requests under way wait, and are
 *   not sent again.
 */
import { Cause, Effect, Latch, Layer, Result, Schedule, SubscriptionRef } from 'effect4'
import { RpcClient, RpcClientError, RpcMessage, RpcSerialization } from 'effect4/rpc'
import { Socket } from 'effect4/socket'

const { RpcClientDefect } = RpcClientError

/**
 * @param {{ isConnected: any, retry: any, pingInterval: any }} options
 * @returns {any} A layer with the protocol.
 */
export const layerProtocol = (options) => Layer.effect(RpcClient.Protocol)(RpcClient.Protocol.make(connect(options)))

const connect = ({ isConnected, retry, pingInterval }) =>
  Effect.fnUntraced(function* (deliver, clients) {
    const socket = yield* Socket.Socket
    const serialization = yield* RpcSerialization.RpcSerialization
    const writer = yield* socket.writer
    /** By the id of a request. */
    const askers = new Map()
    let parser = serialization.makeUnsafe()
    let lost

    const write = (message) =>
      Effect.suspend(() => {
        const text = parser.encode(message)
        return text === undefined ? Effect.void : writer.write(text)
      })
    const tellAll = (message) => Effect.forEach(clients, (client) => deliver(client, message), { discard: true })
    const fail = (reason) => {
      const error = new RpcClientError.RpcClientError({ reason })
      return Effect.as(tellAll({ _tag: 'ClientProtocolError', error }), error)
    }

    const pinger = yield* makePinger(write(RpcMessage.constPing), pingInterval)

    /** Nothing checks a message: what has no `requestId` goes to every client as it is. */
    const receive = (message) => {
      pinger.heard()
      const connected = SubscriptionRef.set(isConnected, true)
      if (message._tag === 'Pong') return connected
      const asker = askers.get(message.requestId)
      if (message._tag === 'Exit') askers.delete(message.requestId)
      return Effect.andThen(connected, asker === undefined ? tellAll(message) : deliver(asker, message))
    }

    const read = Effect.gen(function* () {
      const { pull } = yield* socket.reader
      lost = undefined
      while (true) {
        for (const frame of yield* pull) {
          const messages = yield* Effect.result(Effect.try(() => parser.decode(frame)))
          if (Result.isSuccess(messages)) yield* Effect.forEach(messages.success, receive, { discard: true })
          else yield* fail(new RpcClientDefect({ message: 'Error decoding message', cause: messages.failure }))
        }
      }
    }).pipe(Effect.scoped)

    const silence = Effect.flatMap(pinger.silence, () => {
      const reason = new Socket.SocketOpenError({ kind: 'Timeout', cause: new Error('ping timeout') })
      return Effect.fail(new Socket.SocketError({ reason }))
    })

    const ended = Effect.fnUntraced(function* (cause) {
      yield* SubscriptionRef.set(isConnected, false)
      const error = Cause.findError(cause)
      const reason = Result.isSuccess(error)
        ? error.success.reason
        : new RpcClientDefect({ message: 'Unknown socket error', cause: Cause.squash(cause) })
      if (reason._tag !== 'SocketOpenError') lost = yield* fail(reason)
    })

    yield* Effect.suspend(() => {
      parser = serialization.makeUnsafe()
      pinger.heard()
      return Effect.raceFirst(read, silence)
    }).pipe(Effect.tapCause(ended), Effect.retry(retry), Effect.ignore, Effect.forkScoped)

    const send = (client, message) => {
      if (lost !== undefined) return Effect.fail(lost)
      if (message._tag === 'Request') askers.set(message.id, client)
      return Effect.orDie(write(message))
    }

    return { send, supportsAck: true, supportsTransferables: false, codecFor: serialization.codecFor }
  })

const makePinger = Effect.fnUntraced(function* (ping, interval) {
  const silent = Latch.makeUnsafe()
  let hasHeard = true
  yield* Effect.suspend(() => {
    if (!hasHeard) return silent.open
    hasHeard = false
    return ping
  }).pipe(
    Effect.schedule(Schedule.concat(Schedule.recurs(1), Schedule.fixed(interval))),
    Effect.ignore,
    Effect.forever,
    Effect.forkScoped,
  )
  const heard = () => {
    hasHeard = true
    silent.closeUnsafe()
  }
  return { heard, silence: silent.await }
})
