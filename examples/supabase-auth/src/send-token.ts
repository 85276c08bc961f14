/** Sends the newest token with every WebSocket to this URL; `token` returns it. */
export const sendToken = (url: string, token: () => string | undefined) => {
  const { host } = new URL(url)
  const Native = globalThis.WebSocket
  globalThis.WebSocket = class extends Native {
    constructor(to: string | URL, protocols?: string | string[]) {
      const address = new URL(to)
      const newest = address.host === host ? token() : undefined
      if (newest !== undefined) address.searchParams.set('token', newest)
      super(address, protocols)
    }
  }
}
