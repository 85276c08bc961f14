import { Events, makeSchema, Schema, State } from '@livestore/livestore'

/** The state: a table in the SQLite database of each client. */
export const tables = {
  orders: State.SQLite.table({
    name: 'orders',
    columns: {
      id: State.SQLite.text({ primaryKey: true }),
      product: State.SQLite.text(),
      quantity: State.SQLite.real(),
      status: State.SQLite.text({ default: 'placed' }),
    },
  }),
}

/** The events: what is synced, and what `select * from livestore.events` shows. */
export const events = {
  orderPlaced: Events.synced({
    name: 'orderPlaced',
    schema: Schema.Struct({ id: Schema.String, product: Schema.String, quantity: Schema.Number }),
  }),
  /** Committed by Postgres: see ship.sql. */
  orderShipped: Events.synced({
    name: 'orderShipped',
    schema: Schema.Struct({ id: Schema.String }),
  }),
}

/** How each event changes the state. */
const materializers = State.SQLite.materializers(events, {
  // An event may reach the table twice while two clients write at once: the second time changes nothing.
  orderPlaced: ({ id, product, quantity }) => tables.orders.insert({ id, product, quantity }).onConflict('id', 'ignore'),
  orderShipped: ({ id }) => tables.orders.update({ status: 'shipped' }).where({ id }),
})

export const schema = makeSchema({ events, state: State.SQLite.makeState({ tables, materializers }) })
