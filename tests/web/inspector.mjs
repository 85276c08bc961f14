/**
 * Looks at the inspector of a sidecar as a person does, in a browser, and prints what it measured as JSON.
 *
 *     node inspector.mjs chrome|firefox URL [FOLDER]
 *
 * `firefox` is the browser of the system, over WebDriver BiDi. The sidecar has the stores `todos`, to which others push meanwhile, `big`
 * with 100,000 events, and `evil`, whose event is a script. Exits with 1 and the reasons if something is wrong. FOLDER gets screenshots.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'

import { launch } from './browser.mjs'

const [kind, url, folder] = process.argv.slice(2)
const TIMEOUT = 30_000
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

const browser = await launch(kind, TIMEOUT)

/** What must not happen: errors on the console or in a script, and anything that a script of an event would do. */
const faults = []

const newPage = async () => {
  const page = await browser.newPage()
  page.setDefaultTimeout(TIMEOUT)
  page.on('console', (message) => message.type() === 'error' && faults.push(`console: ${message.text()}`))
  page.on('pageerror', (error) => faults.push(`script: ${error.message}`))
  page.on('dialog', (dialog) => {
    faults.push(`dialog: ${dialog.message()}`)
    void dialog.dismiss()
  })
  await page.setViewport({ width: 1280, height: 900 })
  return page
}

const open = (page, path) => page.goto(new URL(path, url).href, { waitUntil: 'domcontentloaded' })

// By what changes on the page: timers of a page in the background are slow.
const until = (page, what, condition, ...rest) =>
  page.waitForFunction(condition, { polling: 'mutation', timeout: TIMEOUT }, ...rest).catch((error) => assert.fail(`${what}: ${error.message}`))

const text = (page, selector) => page.$eval(selector, (element) => element.textContent)

/** What axe finds serious (WCAG 2, levels A and AA). */
const check = async (page, name) => {
  await page.evaluate(axe)
  const found = await page.evaluate(async () => {
    const { violations } = await axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'] })
    return violations.map((violation) => [violation.impact, violation.id, violation.nodes.map((node) => node.html.slice(0, 200))])
  })
  const serious = found.filter(([impact]) => impact === 'serious' || impact === 'critical')
  assert.deepEqual(serious, [], `axe on ${name}`)
}

const measured = {}
try {
  const page = await newPage()

  // The overview: figures that live, few bytes.
  await open(page, '/')
  assert.equal(new URL(page.url()).pathname, '/inspector')
  await until(page, 'figures', () => Number.parseFloat(document.querySelector('[data-figure=pushes]').textContent) > 0)
  await until(page, 'plots', () => document.querySelectorAll('.plots canvas').length === 3)
  measured.bytes = await page.evaluate(() =>
    [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
      .filter((entry) => entry.initiatorType !== 'other' || entry.entryType === 'navigation')
      .reduce((sum, entry) => sum + entry.transferSize, 0),
  )
  assert(measured.bytes > 1000 && measured.bytes <= 150 * 1024, `${measured.bytes} bytes on first load`)
  await page.keyboard.press('Tab')
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Skip to the content')

  // A live event, on a page that follows a store while another commits.
  const committer = await newPage()
  await open(page, '/inspector/store?id=quiet')
  await until(page, 'live', () => document.querySelector('[data-status]').textContent === 'Live')
  await open(committer, '/inspector/store?id=quiet')
  await committer.type('input[name=name]:not(search input, [role=search] input)', 'madeByHand')
  await committer.type('textarea[name=args]', '{"text":"milk"}')
  const before = Number(await text(page, '[data-head]'))
  const appeared = until(page, 'the event', (head) => Number(document.querySelector('tbody tr').dataset.seq) > head, before).then(() => performance.now())
  await Promise.all([committer.waitForNavigation({ waitUntil: 'domcontentloaded' }), committer.click('form.narrow button')])
  const answered = performance.now()
  measured.live = Math.round(Math.max((await appeared) - answered, 0))
  assert.match(await text(page, 'tbody tr'), /madeByHand.*milk/)
  assert.equal(Number(await text(page, '[data-head]')), before + 1)
  await committer.close()

  // An event that is a script is text.
  await open(page, '/inspector/store?id=evil')
  await until(page, 'live', () => document.querySelector('[data-status]').textContent === 'Live')
  assert.match(await text(page, 'tbody tr'), /<script>alert\(1\)<\/script><img src=x onerror=alert\(2\)>/)
  assert.equal(await page.evaluate(() => document.querySelectorAll('tbody img, tbody script').length), 0)

  // A large log: it is read as it is scrolled, in bounds, and any number is a step away.
  await open(page, '/inspector/store?id=big')
  for (let rows = 200; rows < 2000; rows += 200) {
    await page.evaluate(() => document.querySelector('.events').scrollTo(0, 1e9))
    await until(page, `${rows} rows`, (rows) => document.querySelectorAll('tbody tr[data-seq]').length > rows, rows)
  }
  await sleep(300)
  const seqs = await page.$$eval('tbody tr[data-seq]', (rows) => rows.map((row) => Number(row.dataset.seq)))
  assert.deepEqual(seqs, Array.from({ length: 2000 }, (_, n) => 100_000 - n))
  await Promise.all([page.waitForNavigation({ waitUntil: 'domcontentloaded' }), page.click('a[rel=next]')])
  assert.equal(await page.$eval('tbody tr', (row) => row.dataset.seq), '98000')
  await page.type('input[name=at]', '50000')
  await Promise.all([page.waitForNavigation({ waitUntil: 'domcontentloaded' }), page.click('form[role=search] button')])
  assert.equal(await page.$eval('tbody tr', (row) => row.dataset.seq), '50000')

  // Everybody can use it, on a phone too.
  const pages = ['/', '/inspector/stores', '/inspector/store?id=todos', '/inspector/event?id=todos&number=1', '/inspector/refusals', '/inspector/subscriptions', '/inspector/login']
  for (const scheme of kind === 'firefox' ? ['light'] : ['light', 'dark']) {
    if (kind !== 'firefox') await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }])
    for (const path of pages) {
      await open(page, path)
      if (path === '/') await until(page, 'plots', () => document.querySelectorAll('.plots canvas').length === 3)
      await check(page, `${path}, ${scheme}`)
      await page.setViewport({ width: 390, height: 844 })
      await sleep(200)
      const [wide, all] = await page.evaluate(() => [innerWidth, document.documentElement.scrollWidth])
      assert(all <= wide, `${path} is ${all} wide on a phone of ${wide}`)
      await page.setViewport({ width: 1280, height: 900 })
    }
    if (folder) {
      await open(page, '/')
      await sleep(20_000)
      await page.screenshot({ path: `${folder}/inspector-overview-${scheme}.png` })
      await open(page, '/inspector/store?id=todos')
      await sleep(4000)
      await page.screenshot({ path: `${folder}/inspector-store-${scheme}.png` })
    }
  }
  assert.deepEqual(faults, [])
  console.log(JSON.stringify(measured))
} catch (error) {
  console.log(`${error.message}\n${faults.join('\n')}`)
  process.exitCode = 1
} finally {
  await browser.close()
}
