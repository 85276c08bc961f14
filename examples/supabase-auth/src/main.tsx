import { StoreRegistry, StoreRegistryProvider } from '@livestore/react'
import { Suspense } from 'react'
import { createRoot } from 'react-dom/client'

import { App } from './App.tsx'
import { SignIn } from './SignIn.tsx'
import { useUserId } from './supabase.ts'

const storeRegistry = new StoreRegistry()

const Root = () => {
  const userId = useUserId()
  return (
    <>
      <h1>Todos</h1>
      {userId === null ? (
        <SignIn />
      ) : (
        <Suspense fallback={<p>Loading…</p>}>
          <App userId={userId} />
        </Suspense>
      )}
    </>
  )
}

createRoot(document.getElementById('app')!).render(
  <StoreRegistryProvider storeRegistry={storeRegistry}>
    <Root />
  </StoreRegistryProvider>,
)
