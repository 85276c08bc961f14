/**
 * Serves the built app and drives Chromium on it, as people do: by what is on the page. A profile is a browser of its own,
 * with its own user data: a device of a user.
 *
 *     serve      {}                          → the URL of the app
 *     open       {profile, directory, url, cookies?}   starts a browser with its user data in the directory, and opens the URL
 *     tab        {profile, of, url}            opens one more tab in the browser of another profile, under this name
 *     signIn     {profile, email, password}    fills in the form of examples/supabase-auth, and sends it
 *     signOut    {profile}                     presses its button to sign out, and waits for the form
 *     add        {profile, text}               types a todo and presses Enter
 *     complete   {profile, text}               checks the box of a todo
 *     todos      {profile}                   → [{text, completed}, …] in the order of the page
 *     createAll  {profile, ids, pace}          commits todos to the page's store, at a pace of `commitAll` in ../clients/livestore.mjs
 *     ids        {profile}                   → the ids of the todos in the page's store, or null when the store has ended
 *     syncState  {profile}                   → as `status` of ../clients/livestore.mjs, or null when the store has ended
 *     status     {profile}                   → "connecting", "connected" or "offline"
 *     offline    {profile, offline}            what DevTools calls offline: sockets stay open and silent
 *     reload     {profile}
 *     screenshot {profile, path}
 *     errors     {profile}                   → [text, …]: errors on the console, the workers' too, and uncaught ones
 *
 * The browsers end with the process.
 */
import { serve } from '../clients/driver/stdio.mjs'

import { mkdir } from 'node:fs/promises'

import { chromium } from 'playwright-core'
import { preview } from 'vite'

import { refuse } from '../clients/driver/errors.mjs'

/** For one action on a page: less than the patience of the tests, so that it fails with what it waited for. */
const TIMEOUT = 60_000

const ARGS = [
  '--no-sandbox', // Chromium refuses to run as root with it
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

/** LiveStore logs errors as collapsed groups, which are no errors to the console. */
const LIVESTORE_ERROR = /%c(ERROR|FATAL)%c/

/** @type {Map<string, { context: import('playwright-core').BrowserContext, page: import('playwright-core').Page, errors: string[] }>} */
const profiles = new Map()

const of = (name) => profiles.get(name) ?? refuse(`No such profile: ${name}`)
const pageOf = (name) => of(name).page

const serveApp = async () => {
  const server = await preview({ root: import.meta.dirname, logLevel: 'warn', preview: { host: '127.0.0.1', port: 0 } })
  return `http://127.0.0.1:${server.httpServer.address().port}/`
}

const open = async ({ profile, directory, url, cookies = [] }) => {
  await mkdir(directory)
  const context = await chromium.launchPersistentContext(directory, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ARGS,
    // A killed Chromium leaves its sockets and temporary files behind: there they go with the rest.
    env: { ...process.env, TMPDIR: directory },
    timeout: TIMEOUT,
    viewport: { width: 720, height: 640 },
  })
  context.setDefaultTimeout(TIMEOUT)
  await context.addCookies(cookies)
  const errors = []
  context.on('console', (message) => {
    // Standard output is the tests'; there is nothing to see unless somebody keeps standard error.
    console.error(`${profile}: ${message.text()}`)
    if (message.type() === 'error' || LIVESTORE_ERROR.test(message.text())) errors.push(message.text())
  })
  context.on('weberror', (error) => errors.push(String(error.error())))
  const [page] = context.pages()
  profiles.set(profile, { context, page, errors })
  await load(page, url)
}

const tab = async ({ profile, of: other, url }) => {
  const { context, errors } = of(other)
  const page = await context.newPage()
  profiles.set(profile, { context, page, errors })
  await load(page, url)
}

const load = async (page, url) => {
  await page.goto(url)
  await page.getByRole('heading', { name: 'Todos' }).waitFor()
}

const signIn = async ({ profile, email, password }) => {
  await pageOf(profile).getByLabel('Email').fill(email)
  await pageOf(profile).getByLabel('Password').fill(password)
  await pageOf(profile).getByRole('button', { name: 'Sign in' }).click()
}

const signOut = async ({ profile }) => {
  await pageOf(profile).getByRole('button', { name: 'Sign out' }).click()
  await pageOf(profile).getByLabel('Password').waitFor()
}

const todoOf = (page, text) => page.getByRole('listitem').filter({ has: page.getByText(text, { exact: true }) })

const add = async ({ profile, text }) => {
  const input = pageOf(profile).getByLabel('New todo')
  await input.pressSequentially(text)
  await input.press('Enter')
  await todoOf(pageOf(profile), text).waitFor()
}

const complete = ({ profile, text }) => todoOf(pageOf(profile), text).getByRole('checkbox').check()

/** In one step: a list that changes in between would be read half old and half new. */
const todos = ({ profile }) =>
  pageOf(profile)
    .getByRole('listitem')
    .evaluateAll((items) =>
      items.map((item) => ({ text: item.innerText, completed: item.querySelector('input').checked })),
    )

/** LiveStore shows the stores of a page to whoever debugs it. */
const createAll = ({ profile, ids, pace }) =>
  pageOf(profile).evaluate(
    async ({ ids, pace }) => {
      const wait = (time) => new Promise((resolve) => setTimeout(resolve, time))
      const paces = {
        burst: { size: Infinity },
        groups: { size: 10, time: 0 },
        turns: { size: 1, time: 0 },
        typing: { size: 1, time: 50 },
      }
      const { size, time } = paces[pace]
      for (const [index, id] of ids.entries()) {
        if (index > 0 && index % size === 0) await wait(time)
        Object.values(globalThis.__debugLiveStore)[0].commit({ name: 'todoCreated', args: { id, text: `todo ${id}` } })
      }
    },
    { ids, pace },
  )

const ids = ({ profile }) =>
  pageOf(profile).evaluate(() => {
    const store = Object.values(globalThis.__debugLiveStore ?? {})[0]
    return store?.query({ query: 'select id from todos order by id', bindValues: {} }).map(({ id }) => id) ?? null
  })

const syncState = ({ profile }) =>
  pageOf(profile).evaluate(async () => {
    const store = Object.values(globalThis.__debugLiveStore ?? {})[0]
    if (store === undefined) return null
    const { session, leader } = await store._dev.syncStates()
    return {
      head: leader.localHead.global,
      backendHead: leader.upstreamHead.global,
      pendingInSession: session.pending.length,
      pendingInLeader: leader.pending.length,
      isConnected: document.querySelector('[role=status]')?.innerText === 'connected',
    }
  })

serve({
  serve: serveApp,
  open,
  tab,
  createAll,
  ids,
  syncState,
  signIn,
  signOut,
  add,
  complete,
  todos,
  status: ({ profile }) => pageOf(profile).getByRole('status').innerText(),
  offline: ({ profile, offline }) => of(profile).context.setOffline(offline),
  reload: async ({ profile }) => void (await pageOf(profile).reload()),
  screenshot: async ({ profile, path }) => void (await pageOf(profile).screenshot({ path })),
  errors: ({ profile }) => of(profile).errors,
})
