/**
 * A service that an operator might have: it receives webhooks and answers `--authorize-url`, and verifies what it gets with the
 * package `standardwebhooks`.
 *
 *     listen    {sub, secret, port?}   → {url}           then events "message" with {id, type, data, isVerified, status}
 *     answer    {status, delay?, headers?, name?}        how to answer from now on: messages that hold an event `name`, or all; 0: not
 *     authorize {answers}              what to answer by `storeId`: {allow, reason, ttl}, or a status
 *     close     {}
 */
import { createServer } from 'node:http'

import { Webhook } from 'standardwebhooks'

import { emit, serve } from './driver/stdio.mjs'

let server
let rule = { status: 204 }
let answers = {}

const read = async (request) => {
  const chunks = []
  for await (const chunk of request) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

const sleep = (time) => new Promise((resolve) => setTimeout(resolve, time))

const receive = (sub, secret) => async (request, response) => {
  const body = await read(request)
  let isVerified = true
  try {
    new Webhook(secret).verify(body, request.headers)
  } catch {
    isVerified = false
  }
  const { type, data } = JSON.parse(body)
  const id = request.headers['webhook-id']
  if (type === 'livestore.authorize') {
    const answer = answers[data.storeId] ?? 404
    emit({ event: 'message', sub, value: { id, type, data, isVerified } })
    // As frameworks do that show what was wrong.
    if (typeof answer === 'number') return response.writeHead(answer).end(body)
    return response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer))
  }
  const { name, delay = 0, headers = {} } = rule
  const isMeant = name === undefined || data.events.some((event) => event.name === name)
  const status = !isVerified ? 400 : isMeant ? rule.status : 204
  emit({ event: 'message', sub, value: { id, type, data, isVerified, status, body } })
  if (isMeant) await sleep(delay)
  if (status === 0) return request.socket.destroy()
  response.writeHead(status, headers).end(status === 500 ? 'cannot handle it' : undefined)
}

const listen = ({ sub, secret, port = 0 }) =>
  new Promise((resolve, reject) => {
    server = createServer((request, response) => {
      receive(sub, secret)(request, response).catch(() => response.destroy())
    })
    server.on('error', reject)
    server.listen(port, '127.0.0.1', () => resolve({ url: `http://127.0.0.1:${server.address().port}/hooks` }))
  })

const answer = (next) => {
  rule = next
}

const authorize = (next) => {
  answers = next.answers
}

const close = () =>
  new Promise((resolve) => {
    server.closeAllConnections()
    server.close(() => resolve())
  })

serve({ listen, answer, authorize, close })
