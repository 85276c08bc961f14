/**
 * The data model of the full clients: todos, and an event for each shape that `args` can have.
 *
 * @param {typeof import('@livestore/livestore')} livestore Of whatever version the client has.
 * @param {{ isIdempotent?: boolean }} options Whether a todo may be created twice. It may not in most apps, whose materializers
 *   insert as LiveStore's guide does.
 */
export const makeTodoSchema = ({ Events, makeSchema, Schema, State }, { isIdempotent = true } = {}) => {
  const todos = State.SQLite.table({
    name: 'todos',
    columns: {
      id: State.SQLite.text({ primaryKey: true }),
      text: State.SQLite.text(),
      completed: State.SQLite.boolean({ default: false }),
    },
  })

  const tables = { todos }

  const events = {
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

  // Idempotent by default, as LiveStore demands it without saying so: in 0.4.0 a session that commits while its leader rebases
  // sometimes materializes one of its pending events twice, 0.3.1 doubles an event of its own when it misses the
  // confirmation, and a constraint violated by that shuts the store down.
  const materializers = State.SQLite.materializers(events, {
    todoCreated: ({ id, text }) => {
      const insert = todos.insert({ id, text })
      return isIdempotent ? insert.onConflict('id', 'ignore') : insert
    },
    todoCompleted: ({ id }) => todos.update({ completed: true }).where({ id }),
    allCompleted: () => todos.update({ completed: true }),
  })

  return { events, tables, schema: makeSchema({ events, state: State.SQLite.makeState({ tables, materializers }) }) }
}
