import { StoreRegistry, StoreRegistryProvider } from '@livestore/react'
import { Suspense } from 'react'
import { createRoot } from 'react-dom/client'

import { App } from './App.tsx'

const storeRegistry = new StoreRegistry()

createRoot(document.getElementById('app')!).render(
  <StoreRegistryProvider storeRegistry={storeRegistry}>
    <Suspense fallback={<p>Loading…</p>}>
      <App />
    </Suspense>
  </StoreRegistryProvider>,
)
