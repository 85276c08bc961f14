//! The protocol of `@livestore/sync-cf` 0.3: its own messages over a WebSocket.
//!
//! Source of the wire format: `ws-message-types.ts` of the npm package 0.3.1; of the behaviour, its `durable-object.ts`
//! and `ws-impl.ts`. Three things about that client decide what is done here:
//!
//! - It asks for a pull once, when it starts. After it has reconnected it only pings and listens, and it does not look
//!   whether events follow one another: see [`feed`].
//! - A push whose connection is lost, or that fails, is not tried again until a pull brings other events. So a push waits
//!   for the database as long as its connection lives.
//! - It knows no backend id, so that it cannot be told that a log was reset, other than by an error.

mod feed;
mod messages;
mod session;

pub use session::serve;

use crate::gate::Dialect;

pub const CF_0_3: Dialect = Dialect {
    name: "cf-0.3",
    clients: "@livestore/sync-cf 0.3",
    url: "ws://<this host>/websocket?storeId=<store>",
    usage: "makeCfSync({ url: 'ws://<this host>' })",
};
