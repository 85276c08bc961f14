/**
 * The driver's side of the conversation with a Rust test: JSON lines, requests on stdin, answers and events on stdout.
 *
 *     > {"id":1,"method":"push","params":{…}}
 *     < {"id":1,"ok":null}
 *     < {"id":1,"error":{"_tag":"ServerAheadError","minimumExpectedNum":3,"providedNum":0,"message":"…"}}
 *     < {"event":"page","sub":"s1","value":{…}}
 *
 * Import this module before any client: stdout belongs to the protocol from then on, and what a library prints, even
 * while it is being loaded, goes to stderr.
 */
import { answerFor } from './errors.mjs'

const writeToStdout = process.stdout.write.bind(process.stdout)
process.stdout.write = process.stderr.write.bind(process.stderr)

/**
 * `JSON.stringify` escapes lone surrogates (`\ud800`), so every string that JavaScript can hold survives the trip.
 *
 * @param {object} message
 */
const writeLine = (message) => writeToStdout(`${JSON.stringify(message)}\n`)

/**
 * Tells the test something that it did not ask for.
 *
 * @param {{ event: string } & Record<string, unknown>} event
 */
export const emit = (event) => writeLine(event)

/**
 * Answers requests until stdin ends or SIGTERM arrives, and exits then without waiting for anything: a test that is
 * over, or has crashed, must not leave clients behind that reconnect for ever.
 *
 * @param {Record<string, (params: any) => unknown>} methods Each gets the `params` of its request. What it returns, or
 *   resolves with, is the answer; what it throws is the error. They run concurrently.
 */
export const serve = (methods) => {
  process.on('SIGTERM', () => process.exit(0))

  const answer = async ({ id, method, params = {} }) => {
    try {
      if (!Object.hasOwn(methods, method)) throw new Error(`Unknown method: ${method}`)
      writeLine({ id, ok: (await methods[method](params)) ?? null })
    } catch (error) {
      writeLine({ id, error: answerFor(error) })
    }
  }

  // Not `readline`: it also breaks lines at U+2028 and U+2029, which JSON writers leave unescaped inside strings.
  let unfinished = ''
  process.stdin.setEncoding('utf8')
  process.stdin.on('data', (text) => {
    const lines = (unfinished + text).split('\n')
    unfinished = lines.pop()
    for (const line of lines) if (line.trim() !== '') answer(JSON.parse(line))
  })
  process.stdin.on('end', () => process.exit(0))
}
