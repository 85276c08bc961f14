import * as livestore from '@livestore/livestore'

import { makeTodoSchema } from './driver/todo-schema.mjs'

export const { events, tables, schema } = makeTodoSchema(livestore)
