import { makeAdapter } from '@livestore/adapter-node'
import { createStorePromise } from '@livestore/livestore'
import { makeWsSync } from '@livestore/sync-cf/client'

import { events, schema, tables } from './schema.ts'

const [product, amount = '1'] = process.argv.slice(2)
const quantity = Number(amount)
// The hook in schema.sql refuses such an order, too. But a client pushes a refused event again and again, and nothing after it.
if (!Number.isInteger(quantity) || quantity < 1) {
  console.error('usage: node shop.ts [PRODUCT [QUANTITY]], with a positive quantity')
  process.exit(2)
}

const adapter = makeAdapter({
  storage: { type: 'fs', baseDirectory: process.env.DATA ?? 'data' },
  sync: { backend: makeWsSync({ url: process.env.SYNC_URL ?? 'ws://127.0.0.1:8787' }) },
})
const store = await createStorePromise({ schema, adapter, storeId: process.env.STORE ?? 'shop-1' })

if (product !== undefined) store.commit(events.orderPlaced({ id: crypto.randomUUID(), product, quantity }))

store.subscribe(tables.orders.orderBy('id', 'asc'), (orders) => {
  for (const { id, product, quantity, status } of orders) console.log(`${quantity} ${product}: ${status} (${id})`)
  console.log(orders.length === 0 ? 'No orders yet.' : '--- Ctrl-C ends')
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, async () => {
    await store.shutdownPromise()
    process.exit()
  })
}
