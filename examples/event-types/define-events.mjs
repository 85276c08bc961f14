/**
 * Prints SQL that tells the database what the args of your app's events are:
 *
 *     node define-events.mjs src/schema.ts > events.sql && psql -v ON_ERROR_STOP=1 -1 -f events.sql "$DATABASE_URL"
 *
 * The module must export `schema`, as LiveStore's guides have it. Node 22.18 or later reads TypeScript. With pnpm, add `effect` first.
 */
import { pathToFileURL } from 'node:url'
import { JSONSchema } from 'effect'

const { schema } = await import(pathToFileURL(process.argv[2]))
const quote = (text) => `'${text.replaceAll("'", "''")}'`

// Clients ignore fields that their schema does not have, and write dates as toISOString does.
const asClientsDo = (key, value) => {
  if (key === 'additionalProperties' && value === false) return undefined
  const isDate = typeof value?.description === 'string' && /decoded into a (Date|DateTime\.Utc)$/.test(value.description)
  return isDate ? { ...value, format: 'date-time' } : value
}

const calls = [...schema.eventsDefsMap].map(([name, event]) => {
  const args = JSON.stringify(JSONSchema.make(event.schema), asClientsDo)
  return `select livestore.define_event(${quote(name)}, ${quote(args)});`
})
// All at once: nothing is printed if one of them cannot be made.
console.log(calls.join('\n'))
