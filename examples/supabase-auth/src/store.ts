import { makePersistedAdapter } from '@livestore/adapter-web'
import LiveStoreSharedWorker from '@livestore/adapter-web/shared-worker?sharedworker'
import { storeOptions, useStore } from '@livestore/react'
import { useMemo } from 'react'
import { unstable_batchedUpdates as batchUpdates } from 'react-dom'

import LiveStoreWorker from './livestore.worker.ts?worker'
import { schema } from './schema.ts'

const adapter = makePersistedAdapter({
  storage: { type: 'opfs' },
  worker: LiveStoreWorker,
  sharedWorker: LiveStoreSharedWorker,
})

/** The store of a user, which the sidecar gives to no other user: `LIVESTORE_ALLOW='user-{sub}=write'`. */
export const useTodoStore = (userId: string) =>
  useStore(useMemo(() => storeOptions({ storeId: `user-${userId}`, schema, adapter, batchUpdates }), [userId]))
