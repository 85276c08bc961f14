/** The data model of `../clients/todo-schema.mjs`, made of LiveStore 0.3.1. */
import { Events, makeSchema, Schema, State } from '@livestore/livestore'

const todos = State.SQLite.table({
  name: 'todos',
  columns: {
    id: State.SQLite.text({ primaryKey: true }),
    text: State.SQLite.text(),
    completed: State.SQLite.boolean({ default: false }),
  },
})

export const tables = { todos }

export const events = {
  todoCreated: Events.synced({
    name: 'todoCreated',
    schema: Schema.Struct({ id: Schema.String, text: Schema.String }),
  }),
  todoCompleted: Events.synced({
    name: 'todoCompleted',
    schema: Schema.Struct({ id: Schema.String }),
  }),
  allCompleted: Events.synced({
    name: 'allCompleted',
    schema: Schema.Void,
  }),
}

// Idempotent: this client doubles an event of its own when it misses the confirmation (see the README).
const materializers = State.SQLite.materializers(events, {
  todoCreated: ({ id, text }) => todos.insert({ id, text }).onConflict('id', 'ignore'),
  todoCompleted: ({ id }) => todos.update({ completed: true }).where({ id }),
  allCompleted: () => todos.update({ completed: true }),
})

export const schema = makeSchema({ events, state: State.SQLite.makeState({ tables, materializers }) })
