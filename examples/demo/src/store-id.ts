/** The store that everybody who looks at this demo shares. */
export const storeId = 'demo'
