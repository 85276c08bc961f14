//! Bodies of answers that are written bit by bit.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use futures_util::stream::poll_fn;
use tokio::sync::mpsc;

/// Pieces of a body that wait for the client to read them.
const PIECES: usize = 2;

/// A body, and where its pieces go: sending waits for the client, and fails when it is gone. The body ends when the sender is
/// dropped.
pub fn written() -> (mpsc::Sender<Bytes>, Body) {
    let (pieces, mut unsent) = mpsc::channel(PIECES);
    let body = poll_fn(move |context| unsent.poll_recv(context).map(|piece| piece.map(Ok::<_, Infallible>)));
    (pieces, Body::from_stream(body))
}
