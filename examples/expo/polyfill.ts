import { getRandomValues, randomUUID } from 'expo-crypto'

// Hermes has no `crypto`, from which LiveStore takes its random ids.
globalThis.crypto ??= { getRandomValues, randomUUID } as Crypto
