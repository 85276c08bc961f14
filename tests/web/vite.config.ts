import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

export default defineConfig({
  plugins: [react()],
  worker: { format: 'es' },
  optimizeDeps: {
    // It finds its .wasm file beside itself.
    exclude: ['@livestore/wa-sqlite'],
    // Without this, Vite would find the imports of the worker late, and load the page twice.
    entries: ['index.html', 'src/livestore.worker.ts'],
  },
  // The schema is that of the Node clients, `../clients/driver/todo-schema.mjs`, but on the packages of this folder.
  resolve: { dedupe: ['@livestore/livestore'] },
  server: { fs: { allow: ['.', '../clients'] } },
})
