/**
 * A server as LiveStore's guide for ElectricSQL has its users write it, with this project in the place of Electric: pulls go
 * to the URL that `makeElectricUrl` makes, pushes into the database, here by way of the sidecar.
 *
 *     listen {sidecar, apiSecret?}   → {url}, for `makeSyncBackend({ endpoint: url })`
 *     pulls  {}                    → the search params of the shape requests so far, with the status of the answer
 */
import { serve } from './driver/stdio.mjs'

import { createServer } from 'node:http'
import { ApiSchema, makeElectricUrl } from '@livestore/sync-electric'
import { Schema } from '@livestore/utils/effect'

const pulls = []

const pull = async ({ sidecar, apiSecret }, url, response) => {
  const made = makeElectricUrl({ electricHost: sidecar, searchParams: url.searchParams, apiSecret })
  const answer = await fetch(made.url)
  pulls.push({ params: Object.fromEntries(new URL(made.url).searchParams), status: answer.status })
  const headers = Object.fromEntries(answer.headers)
  // `fetch` has decompressed the body.
  delete headers['content-encoding']
  delete headers['content-length']
  response.writeHead(answer.status, headers)
  response.end(await answer.text())
}

const push = async ({ sidecar }, request, response) => {
  let body = ''
  for await (const piece of request) body += piece
  const { storeId, batch } = Schema.decodeUnknownSync(ApiSchema.PushPayload)(JSON.parse(body))
  const answer = await fetch(`${sidecar}/api/electric`, {
    method: 'POST',
    body: JSON.stringify({ _tag: '@livestore/sync-electric.Push', storeId, batch }),
  })
  response.writeHead(answer.status, { 'content-type': 'application/json' })
  response.end(await answer.text())
}

const listen = (options) =>
  new Promise((resolve) => {
    const server = createServer((request, response) => {
      const url = new URL(request.url, 'http://proxy')
      const handling =
        request.method === 'POST'
          ? push(options, request, response)
          : request.method === 'HEAD'
            ? response.end()
            : pull(options, url, response)
      Promise.resolve(handling).catch((error) => {
        response.writeHead(500)
        response.end(String(error))
      })
    })
    server.listen(0, '127.0.0.1', () => resolve({ url: `http://127.0.0.1:${server.address().port}` }))
  })

serve({ listen, pulls: () => pulls })
