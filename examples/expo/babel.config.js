// LiveStore reads `import.meta`, which Hermes does not have.
module.exports = (api) => {
  api.cache(true)
  return { presets: [['babel-preset-expo', { unstable_transformImportMeta: true }]] }
}
