import type { FormEvent } from 'react'
import { useState } from 'react'

import { supabase } from './supabase.ts'

export const SignIn = () => {
  const [message, setMessage] = useState('')

  const signIn = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const form = new FormData(event.currentTarget)
    const { error } = await supabase.auth.signInWithPassword({
      email: String(form.get('email')),
      password: String(form.get('password')),
    })
    setMessage(error?.message ?? '')
  }

  return (
    <form onSubmit={signIn}>
      <input name="email" type="email" aria-label="Email" placeholder="Email" required />
      <input name="password" type="password" aria-label="Password" placeholder="Password" required />
      <button>Sign in</button>
      <p role="alert">{message}</p>
    </form>
  )
}
