/**
 * Drives Electric's own client, `ShapeStream` of `@electric-sql/client`.
 *
 *     follow {sub, url, params, offset?, handle?, liveSse?, subscribe?}   then events "page", and one last "fail" or "end"
 *     state  {sub}                                   → {offset, handle, isUpToDate, requests}
 *     stop   {sub}
 *
 * A page's `value` is the messages that the stream brings at once, big integers as strings. `requests` are the search
 * params of what was fetched so far, with the status of the answer.
 */
import { emit, serve } from './driver/stdio.mjs'

import { ShapeStream } from '@electric-sql/client'

import { refuse, toPlain } from './driver/errors.mjs'

/** @type {Map<string, { stream: ShapeStream, aborter: AbortController, requests: any[] }>} */
const streams = new Map()

const streamNamed = (sub) => streams.get(sub) ?? refuse(`No stream is running under the name ${sub}`)

const inJson = (value) =>
  JSON.parse(JSON.stringify(value, (_, inner) => (typeof inner === 'bigint' ? inner.toString() : inner)))

const follow = ({ sub, url, params, ...options }) => {
  if (streams.has(sub)) refuse(`A stream is running already under the name ${sub}`)
  const aborter = new AbortController()
  const requests = []
  const fetchClient = async (input, init) => {
    const request = { params: Object.fromEntries(new URL(input).searchParams) }
    requests.push(request)
    const response = await fetch(input, init)
    request.status = response.status
    request.headers = Object.fromEntries(response.headers)
    return response
  }
  const stream = new ShapeStream({
    url,
    params,
    fetchClient,
    signal: aborter.signal,
    backoffOptions: { initialDelay: 100, maxDelay: 500, multiplier: 1.5 },
    ...options,
  })
  streams.set(sub, { stream, aborter, requests })
  stream.subscribe(
    (messages) => emit({ event: 'page', sub, value: inJson(messages) }),
    (error) => emit({ event: 'fail', sub, error: toPlain(error) }),
  )
}

const state = ({ sub }) => {
  const { stream, requests } = streamNamed(sub)
  return { offset: stream.lastOffset, handle: stream.shapeHandle, isUpToDate: stream.isUpToDate, requests }
}

const stop = ({ sub }) => {
  const { stream, aborter } = streamNamed(sub)
  streams.delete(sub)
  stream.unsubscribeAll()
  aborter.abort()
}

serve({ follow, state, stop })
