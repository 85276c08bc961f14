/** Node 20 has no global `WebSocket`, which the clients expect as they do in a browser. */
import WebSocket from 'ws'

globalThis.WebSocket ??= WebSocket
