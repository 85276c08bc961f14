//! The protocol of `@livestore/sync-cf` 0.4 and later: Effect RPC, over WebSocket and over HTTP.
//!
//! Source of the wire format: `ws-rpc-schema.ts`, `http-rpc-schema.ts` and `sync-message-types.ts` of the npm package for the payloads,
//! `RpcMessage.ts` of `@effect/rpc` (Effect 3) and of `effect` 4 for the frames.

mod http;
mod pull;
mod requests;
mod session;
mod wire;

pub use http::answer;
pub use session::serve;

use crate::gate::Dialect;

pub const WS: Dialect = Dialect {
    name: "cf-ws",
    clients: "@livestore/sync-cf 0.4 and later over WebSocket",
    url: "ws://<this host>/?storeId=<store>&transport=ws",
    usage: "makeWsSync({ url: 'ws://<this host>' })",
};

pub const HTTP: Dialect = Dialect {
    name: "cf-http",
    clients: "@livestore/sync-cf 0.4 and later over HTTP",
    url: "http://<this host>/?storeId=<store>&transport=http",
    usage: "makeHttpSync({ url: 'http://<this host>' })",
};
