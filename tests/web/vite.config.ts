import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

export default defineConfig({
  plugins: [react()],
  worker: { format: 'es' },
  optimizeDeps: {
    // It finds its .wasm file beside itself.
    exclude: ['@livestore/wa-sqlite'],
    // What only the worker imports would be found late, and the page loaded twice.
    entries: ['index.html', 'src/livestore.worker.ts'],
  },
  // The schema is that of the Node clients, `../clients/driver/todo-schema.mjs`, but on the packages of this folder.
  resolve: { dedupe: ['@livestore/livestore'] },
  server: { fs: { allow: ['.', '../clients'] } },
})
