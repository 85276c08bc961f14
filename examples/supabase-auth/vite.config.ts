import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

export default defineConfig({
  plugins: [react()],
  worker: { format: 'es' },
  optimizeDeps: {
    // It looks for its .wasm file beside itself.
    exclude: ['@livestore/wa-sqlite'],
    // Vite would otherwise find the imports of the worker late, and load the page twice.
    entries: ['index.html', 'src/livestore.worker.ts'],
  },
})
