import { makeAdapter } from '@livestore/adapter-node'
import { createStorePromise } from '@livestore/livestore'
import { makeWsSync } from '@livestore/sync-cf/client'

import { keyOfPassphrase, open, seal, type Sealed } from './crypto.ts'
import { events, schema, tables } from './schema.ts'

const { PASSPHRASE: passphrase = '' } = process.env
if (passphrase === '') {
  console.error("usage: PASSPHRASE='my secret' node main.ts [NOTE]")
  process.exit(2)
}

const storeId = 'notes'
const adapter = makeAdapter({
  storage: { type: 'fs', baseDirectory: process.env.DATA ?? 'data' },
  sync: { backend: makeWsSync({ url: process.env.SYNC_URL ?? 'ws://127.0.0.1:8787' }) },
})
const store = await createStorePromise({ schema, adapter, storeId })
// An app asks for it, and keeps the key, which cannot be exported, in IndexedDB.
const key = await keyOfPassphrase(passphrase, storeId)

const contextOf = (id: string) => `${storeId}/noteCreated/${id}`

const createNote = async (text: string) => {
  const id = crypto.randomUUID()
  store.commit(events.noteCreated({ id, ...(await seal(key, contextOf(id), { text })) }))
}

type Note = { text: string }
const read = async ({ id, ...sealed }: Sealed & { id: string }) => {
  const note = await open(key, contextOf(id), sealed).catch(() => undefined)
  return (note as Note | undefined)?.text ?? '(this passphrase does not open it)'
}

const text = process.argv.slice(2).join(' ')
if (text !== '') await createNote(text)

store.subscribe(tables.notes.orderBy('id', 'asc'), async (notes) => {
  for (const line of await Promise.all(notes.map(read))) console.log(line)
  console.log('--- Ctrl-C ends')
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, async () => {
    await store.shutdownPromise()
    process.exit()
  })
}
