/** `make demo`: `make run`, whose settings hold here too, and the app by Vite, until Ctrl-C or SIGTERM. */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

import { createServer } from 'vite'

const script = fileURLToPath(new URL('../../sidecar/run-local', import.meta.url))
const run = spawn(script, { stdio: ['ignore', 'pipe', 'inherit'] })
run.on('exit', (code) => process.exit(code ?? 1))

// A terminal sends Ctrl-C to `run`, too.
process.on('SIGINT', () => {})
const stop = () => run.kill('SIGTERM')
process.on('SIGTERM', stop)

const serveApp = async (syncUrl) => {
  process.env.VITE_SYNC_URL = syncUrl
  const server = await createServer({ root: import.meta.dirname, logLevel: 'warn' })
  await server.listen()
  console.log(`
The app is ready. Open it in two windows, one of them private or of another browser: another device.
  ${server.resolvedUrls.local[0]}
What you do in one appears in the other, and in Postgres: see the line with psql above.`)
}

// The last line of `run` says how to stop it; a line before names the URL.
let output = ''
const untilReady = (text) => {
  output += text
  const [, syncUrl] = output.match(/makeWsSync\(\{ url: '(.*?)'[^]*Ctrl-C/) ?? []
  if (syncUrl === undefined) return
  run.stdout.off('data', untilReady)
  serveApp(syncUrl).catch((error) => {
    console.error(error)
    stop()
  })
}
run.stdout.setEncoding('utf8')
run.stdout.on('data', (text) => process.stdout.write(text))
run.stdout.on('data', untilReady)
