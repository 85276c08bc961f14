import { Events, makeSchema, Schema, State } from '@livestore/livestore'

/** The state: a table in the SQLite database of each client. */
export const tables = {
  todos: State.SQLite.table({
    name: 'todos',
    columns: {
      id: State.SQLite.text({ primaryKey: true }),
      text: State.SQLite.text(),
      completed: State.SQLite.boolean({ default: false }),
    },
  }),
}

/** The events: what is synced, and what `select * from livestore.events` shows. */
export const events = {
  todoCreated: Events.synced({
    name: 'todoCreated',
    schema: Schema.Struct({ id: Schema.String, text: Schema.String }),
  }),
  todoCompleted: Events.synced({
    name: 'todoCompleted',
    schema: Schema.Struct({ id: Schema.String }),
  }),
}

/** How each event changes the state. */
const materializers = State.SQLite.materializers(events, {
  // An event may reach the table twice while two clients write at once: the second time changes nothing.
  todoCreated: ({ id, text }) => tables.todos.insert({ id, text }).onConflict('id', 'ignore'),
  todoCompleted: ({ id }) => tables.todos.update({ completed: true }).where({ id }),
})

export const schema = makeSchema({ events, state: State.SQLite.makeState({ tables, materializers }) })
