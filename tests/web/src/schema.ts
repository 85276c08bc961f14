// The very schema of the Node clients of the tests, which share stores with this app.
export { events, schema, tables } from '../../clients/todo-schema.mjs'
