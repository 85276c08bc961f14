/** Ciphertext, in base64 because args of events are JSON. */
export type Sealed = { iv: string; data: string }

const encode = (bytes: Uint8Array) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''))
const decode = (text: string) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0))
const bytesOf = (text: string) => new TextEncoder().encode(text)

/** The same key on every device that knows the passphrase. The salt is no secret, but each store should have its own. */
export const keyOfPassphrase = async (passphrase: string, salt: string) => {
  const material = await crypto.subtle.importKey('raw', bytesOf(passphrase), 'PBKDF2', false, ['deriveKey'])
  return crypto.subtle.deriveKey(
    { name: 'PBKDF2', hash: 'SHA-256', iterations: 600_000, salt: bytesOf(salt) },
    material,
    { name: 'AES-GCM', length: 256 },
    false,
    ['encrypt', 'decrypt'],
  )
}

/** `context` says where the ciphertext belongs: with another one it cannot be opened, so nobody can move it elsewhere. */
export const seal = async (key: CryptoKey, context: string, value: unknown): Promise<Sealed> => {
  // A new one for each value: two values with the same key and iv would reveal each other.
  const iv = crypto.getRandomValues(new Uint8Array(12))
  const algorithm = { name: 'AES-GCM', iv, additionalData: bytesOf(context) }
  const data = await crypto.subtle.encrypt(algorithm, key, bytesOf(JSON.stringify(value)))
  return { iv: encode(iv), data: encode(new Uint8Array(data)) }
}

/** Fails if the key is another one, or if somebody has changed the ciphertext or its context. */
export const open = async (key: CryptoKey, context: string, { iv, data }: Sealed): Promise<unknown> => {
  const algorithm = { name: 'AES-GCM', iv: decode(iv), additionalData: bytesOf(context) }
  return JSON.parse(new TextDecoder().decode(await crypto.subtle.decrypt(algorithm, key, decode(data))))
}
