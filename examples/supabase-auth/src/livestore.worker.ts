import { makeWorker } from '@livestore/adapter-web/worker'
import { makeWsSync } from '@livestore/sync-cf/client'

import { schema } from './schema.ts'
import { sendToken } from './send-token.ts'

const url = import.meta.env.VITE_SYNC_URL ?? 'ws://127.0.0.1:8787'

// The pages of this app answer with the access token (`supabase.ts`). It is asked for now, and with each connection: a connection
// that fails, because the token has expired, is tried again after a pause, with the answer.
const channel = new BroadcastChannel('access-token')
let token: string | undefined
channel.onmessage = ({ data }) => {
  token = data.token ?? token
}
const ask = () => channel.postMessage({ isWanted: true })
ask()
sendToken(url, () => {
  ask()
  return token
})

makeWorker({ schema, sync: { backend: makeWsSync({ url }) } })
