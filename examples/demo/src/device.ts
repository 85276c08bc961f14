// A device: a todo app with a LiveStore client of its own, in memory. Its page can take it off the network.

import { makeInMemoryAdapter } from '@livestore/adapter-web'
import { createStorePromise, nanoid, queryDb } from '@livestore/livestore'
import { makeWsSync } from '@livestore/sync-cf/client'

import { events, schema, tables } from './schema.ts'
import { storeId } from './store-id.ts'

declare global {
  interface Window {
    /** Switches the network of this device on or off. */
    setOnline: (isOnline: boolean) => void
  }
}

const sockets = new Set<WebSocket>()
let isOnline = true

/** A socket that this device's switch closes. */
class SwitchedSocket extends WebSocket {
  constructor(url: string | URL, protocols?: string | string[]) {
    super(url, protocols)
    sockets.add(this)
    this.addEventListener('close', () => sockets.delete(this))
    if (!isOnline) this.close()
  }
}
globalThis.WebSocket = SwitchedSocket

const element = <E extends HTMLElement>(selector: string) => document.querySelector<E>(selector)!
let isReady = false

const showState = () => {
  element('[data-state]').textContent = !isReady ? 'starting' : isOnline ? 'online' : 'offline'
}

window.setOnline = (online) => {
  isOnline = online
  showState()
  if (!online) for (const socket of sockets) socket.close()
}

const device = new URL(location.href).searchParams.get('device') ?? 'device'
const url = new URL('/', location.href)
url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:'

const store = await createStorePromise({
  schema,
  adapter: makeInMemoryAdapter({ sync: { backend: makeWsSync({ url: url.href }) }, clientId: `${device}-${nanoid(4)}` }),
  storeId,
})
const todos$ = queryDb(tables.todos.orderBy('id', 'asc'), { label: 'todos' })

element<HTMLFormElement>('[data-new]').addEventListener('submit', (event) => {
  event.preventDefault()
  const input = element<HTMLInputElement>('[name=text]')
  if (input.value.trim() === '') return
  // The time first: the list is in the order of the ids.
  store.commit(events.todoCreated({ id: `${Date.now()}-${nanoid(5)}`, text: input.value.trim() }))
  input.value = ''
})

const row = ({ id, text, completed }: { id: string; text: string; completed: boolean }) => {
  const [item, label, box, name, remove] = [
    document.createElement('li'),
    document.createElement('label'),
    document.createElement('input'),
    document.createElement('span'),
    document.createElement('button'),
  ]
  box.type = 'checkbox'
  box.checked = completed
  box.addEventListener('change', () =>
    store.commit(completed ? events.todoUncompleted({ id }) : events.todoCompleted({ id })),
  )
  name.textContent = text
  remove.textContent = '×'
  remove.ariaLabel = `Delete ${text}`
  remove.addEventListener('click', () => store.commit(events.todoDeleted({ id })))
  label.append(box, name)
  item.append(label, remove)
  return item
}

store.subscribe(todos$, (todos) => element('[data-todos]').replaceChildren(...todos.map(row)))

isReady = true
showState()
element<HTMLFieldSetElement>('fieldset').disabled = false
