import { Events, makeSchema, Schema, State } from '@livestore/livestore'

const todos = State.SQLite.table({
  name: 'todos',
  columns: {
    id: State.SQLite.text({ primaryKey: true }),
    text: State.SQLite.text(),
    completed: State.SQLite.boolean({ default: false }),
  },
})

const ofTodo = Schema.Struct({ id: Schema.String })

export const tables = { todos }

export const events = {
  todoCreated: Events.synced({ name: 'todoCreated', schema: Schema.Struct({ id: Schema.String, text: Schema.String }) }),
  todoCompleted: Events.synced({ name: 'todoCompleted', schema: ofTodo }),
  todoUncompleted: Events.synced({ name: 'todoUncompleted', schema: ofTodo }),
  todoDeleted: Events.synced({ name: 'todoDeleted', schema: ofTodo }),
}

const materializers = State.SQLite.materializers(events, {
  todoCreated: ({ id, text }) => todos.insert({ id, text }).onConflict('id', 'ignore'),
  todoCompleted: ({ id }) => todos.update({ completed: true }).where({ id }),
  todoUncompleted: ({ id }) => todos.update({ completed: false }).where({ id }),
  todoDeleted: ({ id }) => todos.delete().where({ id }),
})

export const schema = makeSchema({ events, state: State.SQLite.makeState({ tables, materializers }) })
