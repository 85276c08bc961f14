import { makePersistedAdapter } from '@livestore/adapter-web'
import LiveStoreSharedWorker from '@livestore/adapter-web/shared-worker?sharedworker'
import { storeOptions, useStore } from '@livestore/react'
import { Effect, Stream } from '@livestore/utils/effect'
import { useEffect, useState } from 'react'
import { unstable_batchedUpdates as batchUpdates } from 'react-dom'

import workerFile from './livestore.worker?worker&url'
import { schema } from './schema'

const page = new URL(location.href)

export const storeId = page.searchParams.get('storeId') ?? 'todos'
export const syncUrl = page.searchParams.get('sync') ?? import.meta.env.VITE_SYNC_URL ?? 'ws://localhost:8787'

const workerUrl = new URL(workerFile, page)
workerUrl.searchParams.set('sync', syncUrl)
// Its schema has to be that of the page.
const materializers = page.searchParams.get('materializers')
if (materializers !== null) workerUrl.searchParams.set('materializers', materializers)

const options = storeOptions({
  storeId,
  schema,
  adapter: makePersistedAdapter({
    storage: { type: 'opfs' },
    worker: (options) => new Worker(workerUrl, { type: 'module', ...options }),
    sharedWorker: LiveStoreSharedWorker,
  }),
  batchUpdates,
})

export const useTodoStore = () => useStore(options)

/** Whether the sync backend is reached; `undefined` until that is known. */
export const useIsConnected = () => {
  const store = useTodoStore()
  const [isConnected, setIsConnected] = useState<boolean>()
  useEffect(() => {
    const follow = Stream.runForEach(store.networkStatus.changes, (status) =>
      Effect.sync(() => setIsConnected(status.isConnected)),
    )
    return Effect.runCallback(Effect.scoped(follow))
  }, [store])
  return isConnected
}
