import { makeWorker } from '@livestore/adapter-web/worker'
import { makeHttpSync, makeWsSync } from '@livestore/sync-cf/client'

import { schema } from './schema'
import { sendCookies } from './send-cookies'

// `store.ts` puts it there: a worker does not see the URL of its page.
const url = new URL(self.location.href).searchParams.get('sync')
if (url === null) throw new Error('The worker was started without ?sync=')

const isHttp = url.startsWith('http')
if (isHttp) sendCookies(url)

const backend = isHttp ? makeHttpSync({ url, livePull: { pollInterval: 100 } }) : makeWsSync({ url })
makeWorker({ schema, sync: { backend } })
