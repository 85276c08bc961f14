import { Events, makeSchema, Schema, State } from '@livestore/livestore'

/** The table has what the events have: ciphertext, and the ids that materializers need. */
export const tables = {
  notes: State.SQLite.table({
    name: 'notes',
    columns: {
      id: State.SQLite.text({ primaryKey: true }),
      iv: State.SQLite.text(),
      data: State.SQLite.text(),
    },
  }),
}

export const events = {
  noteCreated: Events.synced({
    name: 'noteCreated',
    schema: Schema.Struct({ id: Schema.String, iv: Schema.String, data: Schema.String }),
  }),
}

const materializers = State.SQLite.materializers(events, {
  noteCreated: ({ id, iv, data }) => tables.notes.insert({ id, iv, data }).onConflict('id', 'ignore'),
})

export const schema = makeSchema({ events, state: State.SQLite.makeState({ tables, materializers }) })
