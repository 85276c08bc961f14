import { queryDb } from '@livestore/livestore'
import { type FormEvent, useState } from 'react'

import { events, tables } from './schema.ts'
import { useTodoStore } from './store.ts'
import { supabase } from './supabase.ts'

const todos$ = queryDb(tables.todos.orderBy('id', 'asc'), { label: 'todos' })

export const App = ({ userId }: { userId: string }) => {
  const store = useTodoStore(userId)
  const todos = store.useQuery(todos$)
  const [message, setMessage] = useState('')

  const add = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const form = event.currentTarget
    const text = String(new FormData(form).get('text')).trim()
    // The time comes first: the list is in the order of the ids.
    if (text !== '') store.commit(events.todoCreated({ id: `${Date.now()}-${crypto.randomUUID()}`, text }))
    form.reset()
  }

  const signOut = async () => {
    // Of this device only. The default scope ends the sessions of all devices, and without a network it ends none.
    const { error } = await supabase.auth.signOut({ scope: 'local' })
    setMessage(error?.message ?? '')
  }

  return (
    <>
      <form onSubmit={add}>
        <input name="text" aria-label="New todo" placeholder="What needs to be done?" />
        <button>Add</button>
      </form>
      <ul>
        {todos.map(({ id, text, completed }) => (
          <li key={id}>
            <label>
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
      <button onClick={signOut}>Sign out</button>
      <p role="alert">{message}</p>
    </>
  )
}
