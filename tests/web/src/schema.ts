import * as livestore from '@livestore/livestore'

import { makeTodoSchema } from '../../clients/driver/todo-schema.mjs'

// The very schema of the Node clients of the tests, which share stores with this app. Page and worker read it from their URLs.
const isIdempotent = new URL(self.location.href).searchParams.get('materializers') !== 'plain'

export const { events, schema, tables } = makeTodoSchema(livestore, { isIdempotent })
