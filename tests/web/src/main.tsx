import './style.css'

import { StoreRegistry, StoreRegistryProvider } from '@livestore/react'
import { StrictMode, Suspense } from 'react'
import { createRoot } from 'react-dom/client'

import { App } from './App'

const storeRegistry = new StoreRegistry()

createRoot(document.getElementById('app')!).render(
  <StrictMode>
    <StoreRegistryProvider storeRegistry={storeRegistry}>
      <Suspense fallback={<p>Loading…</p>}>
        <App />
      </Suspense>
    </StoreRegistryProvider>
  </StrictMode>,
)
