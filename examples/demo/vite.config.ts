import { readdirSync, readFileSync } from 'node:fs'

import { defineConfig, type Plugin } from 'vite'

/** Writes the licences of the packages whose code is in the bundle: they ask for that. */
const licences = (): Plugin => ({
  name: 'licences',
  generateBundle(_, bundle) {
    const modules = Object.values(bundle).flatMap((chunk) => (chunk.type === 'chunk' ? Object.keys(chunk.modules) : []))
    const folders = modules.flatMap((module) => module.match(/^\0?(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//)?.[1] ?? [])
    const packages = new Map<string, string[]>()
    for (const folder of [...new Set(folders)].sort()) {
      const { name, version } = JSON.parse(readFileSync(`${folder}/package.json`, 'utf8'))
      const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name))
      if (file === undefined) throw new Error(`${name} has no licence`)
      const text = readFileSync(`${folder}/${file}`, 'utf8').trim()
      packages.set(text, [...(packages.get(text) ?? []), `${name} ${version}`])
    }
    const source = [...packages].map(([text, names]) => `${names.join('\n')}\n\n${text}\n`).join(`\n${'-'.repeat(80)}\n\n`)
    this.emitFile({ type: 'asset', fileName: 'LICENSES.txt', source })
  },
})

// Built into the sidecar, which serves it at /demo/.
export default defineConfig({
  base: '/demo/',
  plugins: [licences()],
  worker: { format: 'es' },
  optimizeDeps: { exclude: ['@livestore/wa-sqlite'] },
  build: {
    outDir: '../../sidecar/src/demo/files',
    emptyOutDir: true,
    assetsInlineLimit: 0,
    target: 'es2022',
    rollupOptions: {
      input: ['index.html', 'device.html'],
      // Names without a hash: the sidecar names them.
      output: {
        entryFileNames: 'assets/[name].js',
        chunkFileNames: 'assets/[name].js',
        assetFileNames: 'assets/[name][extname]',
      },
    },
  },
})
