// #region store
import { makePersistedAdapter } from '@livestore/adapter-expo'
import { storeOptions, useStore } from '@livestore/react'
import { makeWsSync } from '@livestore/sync-cf/client'
import { unstable_batchedUpdates as batchUpdates } from 'react-native'

import { schema } from './schema.ts'

// A phone does not reach the localhost of your computer: use its address in the network, or 10.0.2.2 in Android's emulator.
const url = process.env.EXPO_PUBLIC_SYNC_URL ?? 'ws://127.0.0.1:8787'
const adapter = makePersistedAdapter({ sync: { backend: makeWsSync({ url }) } })
const options = storeOptions({ storeId: 'todos', schema, adapter, batchUpdates })

export const useTodoStore = () => useStore(options)
// #endregion store
