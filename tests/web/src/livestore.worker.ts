import { makeWorker } from '@livestore/adapter-web/worker'
import { makeWsSync } from '@livestore/sync-cf/client'

import { schema } from './schema'

// `store.ts` puts it there: a worker does not see the URL of its page.
const url = new URL(self.location.href).searchParams.get('sync')
if (url === null) throw new Error('The worker was started without ?sync=')

makeWorker({ schema, sync: { backend: makeWsSync({ url }) } })
