/**
 * Looks at what is live on the pages of the inspector, in Chromium, while sessions end and proxies answer in place of the sidecar.
 *
 *     node inspector-session.mjs URL SECRET
 *
 * The sidecar takes tokens that SECRET signs, and has the store `todos`. Exits with 1 and the reasons if something is wrong.
 */
import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'

import { launch } from './browser.mjs'

const [url, secret] = process.argv.slice(2)
const TIMEOUT = 30_000
const ENDED = 'Your session has ended: log in again.'

const token = (seconds) => {
  const claims = { sub: 'ann', exp: Math.floor(Date.now() / 1000) + seconds, livestore: { '*': 'read' } }
  const signed = [{ alg: 'HS256', typ: 'JWT' }, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`
}

const browser = await launch('chrome', TIMEOUT)
const faults = []

const newPage = async () => {
  const page = await browser.newPage()
  page.setDefaultTimeout(TIMEOUT)
  page.on('pageerror', (error) => faults.push(`script: ${error.message}`))
  return page
}

const open = (page, path) => page.goto(new URL(path, url).href, { waitUntil: 'domcontentloaded' })

const logIn = async (page, key) => {
  await open(page, '/inspector/login')
  await page.type('#key', key)
  await Promise.all([page.waitForNavigation({ waitUntil: 'domcontentloaded' }), page.click('form.narrow button')])
  assert.equal(new URL(page.url()).pathname, '/inspector')
}

const until = (page, what, condition, ...rest) =>
  page.waitForFunction(condition, { polling: 200, timeout: TIMEOUT }, ...rest).catch((error) => assert.fail(`${what}: ${error.message}`))

const says = (page, text) => until(page, text, (text) => document.querySelector('[data-status]').textContent === text, text)

const figure = (page) => page.$eval('[data-figure=pushes]', (element) => element.textContent)

/** Gives requests of a page for this path the answer `given` in place of the sidecar, as long as there is one, and counts them. */
const answer = async (page, path, given) => {
  const proxy = { given, count: 0 }
  await page.setRequestInterception(true)
  page.on('request', (request) => {
    if (new URL(request.url()).pathname !== path) return void request.continue()
    // Chromium shows the first request of an event stream twice.
    if (request.resourceType() !== 'other') proxy.count += 1
    void (proxy.given === undefined ? request.continue() : request.respond(proxy.given))
  })
  return proxy
}

try {
  // Proxies answer while the sidecar is away.
  const page = await newPage()
  await logIn(page, token(600))
  await says(page, 'Live')
  const full = { status: 503, contentType: 'text/plain', body: 'too many pages of the inspector are open\n' }
  const away = { status: 502, contentType: 'text/html', body: '<h1>Bad gateway</h1>' }
  const proxy = await answer(page, '/inspector/live', full)
  await open(page, '/inspector')
  await says(page, 'too many pages of the inspector are open')
  assert.equal(await figure(page), '–')
  proxy.given = away
  await says(page, 'Reconnecting…')
  proxy.given = undefined
  await says(page, 'Live')
  await until(page, 'figures', () => document.querySelector('[data-figure=pushes]').textContent !== '–')
  await page.close()

  // An answer alone is nothing live yet.
  const store = await newPage()
  const silent = { status: 200, contentType: 'text/event-stream', body: ':\n\n' }
  const silence = await answer(store, '/inspector/follow', silent)
  await open(store, '/inspector/store?id=todos')
  await store.waitForRequest((request) => new URL(request.url()).pathname === '/inspector/follow' && silence.count >= 2)
  assert.notEqual(await store.$eval('[data-status]', (element) => element.textContent), 'Live')
  silence.given = undefined
  await says(store, 'Live')
  await store.close()

  // A list that cannot be read is not shown as it was.
  const list = await newPage()
  const clients = await answer(list, '/inspector/clients', away)
  await open(list, '/inspector/store?id=todos')
  await until(list, 'no list', () => document.querySelector('[data-refresh]').textContent === 'This cannot be read at the moment.')
  clients.given = undefined
  await until(list, 'a list', () => document.querySelector('[data-refresh]').textContent.includes('Nobody follows'))
  await list.close()

  // The session ends: pages say so, and ask for nothing more.
  const figures = await newPage()
  await logIn(figures, token(20))
  const events = await newPage()
  await open(events, '/inspector/store?id=todos')
  await says(events, 'Live')
  await figures.bringToFront()
  await says(figures, ENDED)
  assert.equal(await figure(figures), '–')
  await events.bringToFront()
  await says(events, ENDED)
  await until(events, 'the list', (text) => document.querySelector('[data-refresh]').textContent === text, ENDED)
  let requests = 0
  for (const page of [figures, events]) page.on('request', () => (requests += 1))
  await sleep(4000)
  assert.equal(requests, 0)

  // The same if it ends while the stream is away.
  const late = await newPage()
  await logIn(late, token(600))
  const attempts = await answer(late, '/inspector/live', away)
  await open(late, '/inspector')
  await says(late, 'Reconnecting…')
  await late.deleteCookie({ name: 'livestore_inspector', path: '/inspector' })
  attempts.given = undefined
  await says(late, ENDED)
  const { count } = attempts
  await sleep(5000)
  assert.equal(attempts.count, count)

  assert.deepEqual(faults, [])
} catch (error) {
  console.log(`${error.message}\n${faults.join('\n')}`)
  process.exitCode = 1
} finally {
  await browser.close()
}
