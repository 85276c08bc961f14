/** Sends the cookies with every request to the host of this URL, as a WebSocket does. */
export const sendCookies = (url: string) => {
  const { host } = new URL(url)
  const native = globalThis.fetch
  globalThis.fetch = async (input: RequestInfo | URL, init?: RequestInit) => {
    const address = new URL(input instanceof Request ? input.url : input, location.href)
    return native(input, address.host === host ? { ...init, credentials: 'include' } : init)
  }
}
