import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { text } from 'node:stream/consumers'

import { Webhook, WebhookVerificationError } from 'standardwebhooks'

/** What the sidecar sends. In a row with a `change` (reset, drop, move, renew, rewrite, leave, arrive), `name` is null. */
type Message = { data: { events: { storeId: string; name: string | null; args: any }[] } }

const webhook = new Webhook(process.env.LIVESTORE_WEBHOOK_SECRET ?? '')
const port = Number(process.env.PORT ?? 4000)

// The sidecar may send a message again, with the same id. A real service keeps the ids in its database, and writes an id in
// the transaction that writes the effect of the message.
const file = 'handled.txt'
const handled = new Set(existsSync(file) ? readFileSync(file, 'utf8').split('\n') : [])

const server = createServer(async (request, response) => {
  try {
    const { data } = webhook.verify(await text(request), request.headers as Record<string, string>) as Message
    const id = String(request.headers['webhook-id'])
    if (!handled.has(id)) {
      for (const { storeId, name, args } of data.events) {
        if (name === 'orderPlaced') console.log(`mail to ${storeId}: order ${args?.id}`)
      }
      handled.add(id)
      appendFileSync(file, `${id}\n`)
    }
    response.writeHead(204).end()
  } catch (error) {
    const isBadSignature = error instanceof WebhookVerificationError
    if (!isBadSignature) console.error(error)
    response.writeHead(isBadSignature ? 400 : 500).end()
  }
})
server.listen(port, '127.0.0.1', () => console.log(`waiting for orders at http://127.0.0.1:${port}/hooks`))
