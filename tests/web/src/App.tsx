import { nanoid, queryDb } from '@livestore/livestore'
import { type FormEvent, useState } from 'react'

import { events, tables } from './schema'
import { storeId, syncUrl, useIsConnected, useTodoStore } from './store'

const todos$ = queryDb(tables.todos.orderBy('id', 'asc'), { label: 'todos' })

export const App = () => (
  <>
    <h1>Todos</h1>
    <NewTodo />
    <TodoList />
    <Status />
  </>
)

const NewTodo = () => {
  const store = useTodoStore()
  const [text, setText] = useState('')

  const add = (event: FormEvent) => {
    event.preventDefault()
    if (text.trim() === '') return
    // The time first: the list is in the order of the ids.
    store.commit(events.todoCreated({ id: `${Date.now()}-${nanoid(5)}`, text: text.trim() }))
    setText('')
  }

  return (
    <form onSubmit={add}>
      <input
        aria-label="New todo"
        placeholder="What needs to be done?"
        value={text}
        onChange={(event) => setText(event.target.value)}
      />
      <button>Add</button>
    </form>
  )
}

const TodoList = () => {
  const store = useTodoStore()
  const todos = store.useQuery(todos$)

  if (todos.length === 0) return <p className="empty">Nothing to do.</p>
  return (
    <>
      <ul>
        {todos.map(({ id, text, completed }) => (
          <li key={id}>
            <label>
              {/* What is done stays done: the schema has no event that takes it back. */}
              <input
                type="checkbox"
                checked={completed}
                disabled={completed}
                onChange={() => store.commit(events.todoCompleted({ id }))}
              />
              <span>{text}</span>
            </label>
          </li>
        ))}
      </ul>
      <p className="actions">
        <span>{todos.filter((todo) => !todo.completed).length} left</span>
        <button onClick={() => store.commit(events.allCompleted())}>Complete all</button>
      </p>
    </>
  )
}

const Status = () => {
  const isConnected = useIsConnected()
  const state = isConnected === undefined ? 'connecting' : isConnected ? 'connected' : 'offline'

  return (
    <footer>
      <span role="status" className={state}>
        {state}
      </span>
      <span>
        store <code>{storeId}</code> on <code>{syncUrl}</code>
      </span>
    </footer>
  )
}
