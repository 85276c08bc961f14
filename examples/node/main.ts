// #region client
import { makeAdapter } from '@livestore/adapter-node'
import { createStorePromise } from '@livestore/livestore'
import { makeWsSync } from '@livestore/sync-cf/client'

import { events, schema, tables } from './schema.ts'

const adapter = makeAdapter({
  storage: { type: 'fs', baseDirectory: process.env.DATA ?? 'data' },
  sync: { backend: makeWsSync({ url: process.env.SYNC_URL ?? 'ws://127.0.0.1:8787' }) },
})
const store = await createStorePromise({ schema, adapter, storeId: 'todos' })
// #endregion client

const text = process.argv.slice(2).join(' ')
if (text !== '') store.commit(events.todoCreated({ id: crypto.randomUUID(), text }))

store.subscribe(tables.todos.orderBy('id', 'asc'), (todos) => {
  console.log(todos.length === 0 ? 'No todos yet.' : todos.map((todo) => todo.text).join('\n'))
  console.log('--- Ctrl-C ends')
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, async () => {
    await store.shutdownPromise()
    process.exit()
  })
}
