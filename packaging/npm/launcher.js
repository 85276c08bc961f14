#!/usr/bin/env node
// Runs the program of this machine's platform: npm has installed it as an optional dependency of this package, and only that one.
'use strict'

const { spawn } = require('node:child_process')
const { constants } = require('node:os')

const platform = `${process.platform}-${process.arch}`

let program
try {
  program = require.resolve(`livestore-sidecar-${platform}/livestore-sidecar`)
} catch {
  console.error(
    `livestore-sidecar has no program for ${platform} here. It is an optional dependency: install without --no-optional` +
      ` (--omit=optional), on the machine that runs it. Linux on x64 and arm64 (glibc) and macOS have one; build it from source on others.`,
  )
  process.exit(1)
}

const child = spawn(program, process.argv.slice(2), { stdio: 'inherit' })
// A terminal sends its signals to both; a supervisor sends them to this process alone.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2']) process.on(signal, () => child.kill(signal))
child.on('error', (error) => {
  console.error(`livestore-sidecar does not start: ${error.message}`)
  process.exit(1)
})
child.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]))
