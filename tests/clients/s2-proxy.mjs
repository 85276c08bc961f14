/**
 * A server as LiveStore's guide for S2 has its users write it, in front of the sidecar or of s2-lite: every request is one that
 * `s2-proxy-helpers` make.
 *
 *     listen   {s2}      → {url}, for `makeSyncBackend({ endpoint: url })`; `s2` is the URL of an S2 API, with its /v1
 *     requests {}        → the method and path of the requests so far, with the status of the answer
 */
import { serve } from './driver/stdio.mjs'

import { createServer } from 'node:http'
import { Readable } from 'node:stream'
import {
  ApiSchema,
  buildPullRequest,
  buildPushRequests,
  decodePullArgsFromSearchParams,
  ensureBasin,
  ensureStream,
  makeS2StreamName,
} from '@livestore/sync-s2'
import { Schema } from '@livestore/utils/effect'

const requests = []

const ask = async (url, init) => {
  const answer = await fetch(url, init)
  requests.push({ method: init.method ?? 'GET', path: new URL(url).pathname, status: answer.status })
  return answer
}

const pull = async (config, url, response) => {
  const args = decodePullArgsFromSearchParams(url.searchParams)
  await ensureBasin(config)
  await ensureStream(config, makeS2StreamName(args.storeId))
  const asked = buildPullRequest({ config, args })
  const aborter = new AbortController()
  response.on('close', () => aborter.abort())
  const answer = await ask(asked.url, { headers: asked.headers, signal: aborter.signal })
  response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type'), 'cache-control': 'no-cache' })
  Readable.fromWeb(answer.body).on('error', () => response.destroy()).pipe(response)
}

const push = async (config, request, response) => {
  let body = ''
  for await (const piece of request) body += piece
  const { storeId, batch } = Schema.decodeUnknownSync(ApiSchema.PushPayload)(JSON.parse(body))
  for (const { url, method, headers, body } of buildPushRequests({ config, storeId, batch })) {
    const answer = await ask(url, { method, headers, body })
    if (!answer.ok) {
      response.writeHead(500, { 'content-type': 'application/json' })
      response.end(JSON.stringify({ error: await answer.text() }))
      return
    }
  }
  response.writeHead(200, { 'content-type': 'application/json' })
  response.end(JSON.stringify({ success: true }))
}

const listen = ({ s2 }) =>
  new Promise((resolve) => {
    const config = {
      basin: 'livestore-tests',
      token: 'unused',
      lite: true,
      basinBase: s2,
      accountBase: s2,
    }
    const server = createServer((request, response) => {
      const url = new URL(request.url, 'http://proxy')
      const handling =
        request.method === 'POST'
          ? push(config, request, response)
          : request.method === 'HEAD'
            ? response.end()
            : pull(config, url, response)
      Promise.resolve(handling).catch((error) => {
        if (!response.headersSent) response.writeHead(500)
        response.end(String(error))
      })
    })
    server.listen(0, '127.0.0.1', () => resolve({ url: `http://127.0.0.1:${server.address().port}` }))
  })

serve({ listen, requests: () => requests })
