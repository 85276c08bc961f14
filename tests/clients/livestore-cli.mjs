/** The configuration of LiveStore's own command, `livestore sync export` and `import`: $DIALECT at $SIDECAR. */
import * as livestore from '@livestore/livestore'
import { makeHttpSync, makeWsSync } from '@livestore/sync-cf/client'
import { makeSyncBackend as makeElectricSync } from '@livestore/sync-electric'
import { makeSyncBackend as makeS2Sync } from '@livestore/sync-s2'

import { makeTodoSchema } from './driver/todo-schema.mjs'

const { DIALECT, SIDECAR } = process.env

export const { schema } = makeTodoSchema(livestore)

export const syncBackend = {
  // The command gives a second ping 5 seconds, and this client sends one every 10.
  'cf-ws': () => makeWsSync({ url: SIDECAR.replace('http', 'ws'), ping: { requestInterval: 1000 } }),
  'cf-http': () => makeHttpSync({ url: SIDECAR }),
  electric: () => makeElectricSync({ endpoint: `${SIDECAR}/api/electric` }),
  s2: () => makeS2Sync({ endpoint: `${SIDECAR}/api/s2` }),
}[DIALECT]()
