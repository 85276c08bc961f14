import { createClient } from '@supabase/supabase-js'
import { useEffect, useState } from 'react'

// The page is loaded again as soon as the session of this device is gone. `keepalive` lets the request end that tells Supabase so. Browsers
// limit the bodies of such requests to 64 KiB, so no other one has it.
const global = {
  fetch: (input: RequestInfo | URL, init?: RequestInit) => {
    const url = input instanceof Request ? input.url : String(input)
    return fetch(input, url.includes('/auth/v1/logout') ? { ...init, keepalive: true } : init)
  },
}
export const supabase = createClient(import.meta.env.VITE_SUPABASE_URL, import.meta.env.VITE_SUPABASE_KEY, { global })

// The worker that syncs cannot see the session, so this page tells it the token: when it changes, and when the worker asks.
const channel = new BroadcastChannel('access-token')
channel.onmessage = async ({ data }) => {
  if (data.isWanted !== true) return
  // Renews the token first if it has expired, as after a computer has slept.
  const { session } = (await supabase.auth.getSession()).data
  if (session !== null) channel.postMessage({ token: session.access_token })
}

const USER = 'user-id'

/** The user who is signed in, or null. Remembered, so that the app starts without a network, when no token can be renewed. */
export const useUserId = () => {
  const [userId, setUserId] = useState(() => localStorage.getItem(USER))
  useEffect(() => {
    const { subscription } = supabase.auth.onAuthStateChange((event, session) => {
      if (session !== null) {
        channel.postMessage({ token: session.access_token })
        localStorage.setItem(USER, session.user.id)
        setUserId(session.user.id)
      } else if (event === 'SIGNED_OUT') {
        localStorage.removeItem(USER)
        // Ends the store and its worker.
        location.reload()
      }
    }).data
    return () => subscription.unsubscribe()
  }, [])
  return userId
}
