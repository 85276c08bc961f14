// The page around the devices: their switches, and the log as Postgres has it.

import { storeId } from './store-id.ts'

const element = <E extends HTMLElement>(selector: string) => document.querySelector<E>(selector)!
const problem = element('[data-problem]')
element('[data-store]').textContent = storeId

for (const online of document.querySelectorAll<HTMLInputElement>('[data-device]')) {
  const device = element<HTMLIFrameElement>(`iframe[name=${online.dataset.device}]`)
  const set = () => device.contentWindow?.setOnline?.(online.checked)
  online.addEventListener('change', set)
  device.addEventListener('load', set)
}

type LogEvent = { seqNum: string; parentSeqNum: string; name: string; args: unknown; clientId: string }

let head = 0
const rows = element('[data-events]')

const show = (event: LogEvent) => {
  const row = document.createElement('tr')
  const args = typeof event.args === 'string' ? event.args : JSON.stringify(event.args)
  for (const value of [event.seqNum, event.name, args, event.clientId]) {
    const cell = document.createElement('td')
    cell.textContent = value
    row.append(cell)
  }
  rows.prepend(row)
  head = Number(event.seqNum)
}

const wait = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

/** Follows the log: a shape of Electric's protocol, which the sidecar speaks as well. */
const follow = async () => {
  let position: Record<string, string> = { offset: '-1' }
  for (;;) {
    const url = new URL('/v1/shape', location.href)
    url.search = new URLSearchParams({ table: `eventlog_6_${storeId}`, store_id: storeId, ...position }).toString()
    const answer = await fetch(url, { cache: 'no-store' }).catch(() => undefined)
    if (answer?.status === 409) {
      // The store was reset: from the beginning.
      rows.replaceChildren()
      position = { offset: '-1' }
      continue
    }
    if (!answer?.ok) {
      await wait(1000)
      continue
    }
    const messages: { value?: LogEvent; headers: { control?: string } }[] = answer.status === 204 ? [] : await answer.json()
    for (const { value } of messages) if (value !== undefined) show(value)
    const header = (name: string) => answer.headers.get(`electric-${name}`) ?? ''
    position = { offset: header('offset'), handle: header('handle') }
    if (messages.some(({ headers }) => headers.control === 'up-to-date') || messages.length === 0) position.live = 'true'
  }
}
void follow()

/** What a server does: it appends an event behind the head of the log. Somebody may be first. */
const commit = async (text: string) => {
  for (let attempt = 0; attempt < 5; attempt++) {
    const event = {
      name: 'todoCreated',
      args: { id: `${Date.now()}-server`, text },
      seqNum: head + 1,
      parentSeqNum: head,
      clientId: 'server',
      sessionId: 'demo',
    }
    const answer = await fetch('/api/electric', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ _tag: '@livestore/sync-electric.Push', storeId, batch: [event] }),
    })
    if (answer.ok) return
    await wait(300)
  }
  problem.textContent = 'The event was not committed: try again.'
}

element<HTMLFormElement>('[data-commit]').addEventListener('submit', (event) => {
  event.preventDefault()
  const input = element<HTMLInputElement>('[data-commit] input')
  problem.textContent = ''
  void commit(input.value).then(() => (input.value = ''))
})
