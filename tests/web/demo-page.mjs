/**
 * Uses the demo of a sidecar as a visitor does, and prints `ok`.
 *
 *     node demo-page.mjs chrome|firefox URL [FOLDER]
 *
 * FOLDER gets a picture for each step.
 */
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'

import { launch } from './browser.mjs'

const [kind, url, folder] = process.argv.slice(2)
const TIMEOUT = 60_000

const browser = await launch(kind, TIMEOUT)
const faults = []
let step = 0

try {
  const page = await browser.newPage()
  page.setDefaultTimeout(TIMEOUT)
  page.on('pageerror', (error) => faults.push(`script: ${error.message}`))
  page.on('console', (message) => message.type() === 'error' && faults.push(`console: ${message.text()}`))
  await page.setViewport({ width: 1280, height: 640 })
  await page.goto(new URL('/demo/', url).href, { waitUntil: 'domcontentloaded' })

  const picture = async () => {
    if (!folder) return
    step += 1
    await sleep(700)
    await page.screenshot({ path: `${folder}/demo-${step}.png` })
  }
  const device = async (name) => (await page.waitForSelector(`iframe[name=${name}]`)).contentFrame()
  const [phone, laptop] = [await device('phone'), await device('laptop')]
  const todos = (frame) =>
    frame.$$eval('[data-todos] li', (rows) => rows.map((row) => `${row.querySelector('input').checked ? '✓ ' : ''}${row.querySelector('span').textContent}`))
  const until = async (what, condition) => {
    const end = Date.now() + TIMEOUT
    let last
    while (Date.now() < end) {
      last = await condition()
      if (last === true) return
      await sleep(50)
    }
    assert.fail(`${what}: ${JSON.stringify(last)}`)
  }
  const shows = (frame, expected) =>
    until(`shows ${expected}`, async () => {
      const shown = await todos(frame)
      return JSON.stringify(shown) === JSON.stringify(expected) || shown
    })
  const add = async (frame, text) => {
    await frame.type('[name=text]', text)
    await frame.click('[data-new] button')
  }
  const row = (frame, text) => frame.evaluateHandle((text) => [...document.querySelectorAll('li')].find((row) => row.textContent.includes(text)), text)
  const click = async (frame, text, selector) => (await (await row(frame, text)).$(selector)).click()
  const log = () => page.$$eval('[data-events] tr', (rows) => rows.map((row) => row.cells[1].textContent).reverse())
  const online = (name) => page.click(`[data-device=${name}]`)
  for (const frame of [phone, laptop])
    await until('online', async () => (await frame.$eval('[data-state]', (state) => state.textContent)) === 'online')

  await add(phone, 'buy milk')
  await shows(laptop, ['buy milk'])
  await until('the log', async () => (await log()).join() === 'todoCreated')
  await picture()

  // Both edit while one is away, and the edits merge.
  await online('phone')
  await add(phone, 'make jam')
  await click(phone, 'buy milk', 'input')
  await add(laptop, 'bake bread')
  await shows(phone, ['✓ buy milk', 'make jam'])
  await shows(laptop, ['buy milk', 'bake bread'])
  await until('the log', async () => (await log()).join() === 'todoCreated,todoCreated')
  await picture()
  await online('phone')
  for (const frame of [phone, laptop]) await shows(frame, ['✓ buy milk', 'make jam', 'bake bread'])
  await until('the log', async () => (await log()).length === 4)
  await picture()

  // Untick, delete, and an event of the server.
  await click(laptop, 'buy milk', 'input')
  await click(laptop, 'make jam', 'button')
  for (const frame of [phone, laptop]) await shows(frame, ['buy milk', 'bake bread'])
  await page.type('[data-commit] input', 'call the bank')
  await page.click('[data-commit] button')
  for (const frame of [phone, laptop]) await shows(frame, ['buy milk', 'bake bread', 'call the bank'])
  await until('the log', async () => (await log()).join() === 'todoCreated,todoCreated,todoCreated,todoCompleted,todoUncompleted,todoDeleted,todoCreated' || (await log()))
  assert.equal(await page.$eval('[data-events] tr', (row) => row.cells[3].textContent), 'server')
  await picture()

  // Browsers and LiveStore say that a socket was closed: that is what the switch does.
  const others = faults.filter((fault) => !/socket|ws:\/\//i.test(fault))
  assert.deepEqual(others, [])
  console.log('ok')
} catch (error) {
  console.log(`${error.message}\n${faults.join('\n')}`)
  process.exitCode = 1
} finally {
  await browser.close()
}
