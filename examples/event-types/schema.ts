import { Events, makeSchema, Schema, State } from '@livestore/livestore'

const TaskId = Schema.String.pipe(Schema.brand('TaskId'))

/** What may be asked of a schema: a brand, a date, optional and nested fields, a union. */
const Task = Schema.Struct({
  id: TaskId,
  title: Schema.NonEmptyString,
  due: Schema.optional(Schema.Date),
  priority: Schema.NullOr(Schema.Int),
  assignee: Schema.Union(
    Schema.Struct({ kind: Schema.Literal('person'), name: Schema.String }),
    Schema.Struct({ kind: Schema.Literal('team'), members: Schema.Array(Schema.String) }),
  ),
})

export const events = {
  taskAdded: Events.synced({ name: 'v1.TaskAdded', schema: Task }),
  allTasksDone: Events.synced({ name: 'v1.AllTasksDone', schema: Schema.Void }),
}

const tasks = State.SQLite.table({
  name: 'tasks',
  columns: { id: State.SQLite.text({ primaryKey: true }), title: State.SQLite.text(), done: State.SQLite.boolean({ default: false }) },
})

const materializers = State.SQLite.materializers(events, {
  'v1.TaskAdded': ({ id, title }) => tasks.insert({ id, title }),
  'v1.AllTasksDone': () => tasks.update({ done: true }),
})

export const schema = makeSchema({ events, state: State.SQLite.makeState({ tables: { tasks }, materializers }) })
