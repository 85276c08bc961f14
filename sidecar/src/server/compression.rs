//! Compressed answers. The state of one takes some 200 KiB until the client has read the answer, which no other limit counts: so there are only
//! so many at a time.

use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::middleware::map_response;
use axum::response::Response;
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, Predicate};

/// The answers that are compressed at the same time. Others are sent as they are.
const ANSWERS: usize = 1024;

/// Compresses the answers of these routes for clients that ask for it.
pub fn compressed(routes: Router) -> Router {
    let places = Arc::new(Semaphore::new(ANSWERS));
    let free = Arc::clone(&places);
    let is_free = move |_: StatusCode, _: Version, _: &HeaderMap, _: &Extensions| free.available_permits() > 0;
    let compression = CompressionLayer::new().compress_when(DefaultPredicate::new().and(is_free));
    routes.layer(compression).layer(map_response(move |response| ready(with_place(&places, response))))
}

/// A compressed answer takes a place until it is sent, or nobody wants it any more.
fn with_place(places: &Arc<Semaphore>, mut response: Response) -> Response {
    if !response.headers().contains_key(header::CONTENT_ENCODING) {
        // A cache keeps this answer beside a compressed one, as tower-http says of those.
        if places.available_permits() == 0 {
            response.headers_mut().append(header::VARY, HeaderValue::from_name(header::ACCEPT_ENCODING));
        }
        return response;
    }
    let place = Arc::clone(places).try_acquire_owned();
    response.map(|body| {
        Body::from_stream(body.into_data_stream().inspect(move |_| {
            let _held = &place;
        }))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use axum::routing::get;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    #[tokio::test]
    async fn so_many_are_compressed_and_the_others_are_sent_as_they_are() {
        let endless = || async { Body::from_stream(futures_util::stream::pending::<Result<String, axum::Error>>()) };
        let router = compressed(Router::new().route("/", get(endless)));
        let service = TowerToHyperService::new(router);
        let ask = async || {
            let request = Request::get("/").header(header::ACCEPT_ENCODING, "gzip").body(Body::empty()).unwrap();
            service.call(request).await.unwrap()
        };
        let is_compressed = |answer: &Response| answer.headers().contains_key(header::CONTENT_ENCODING);
        let mut answers = Vec::new();
        for _ in 0..ANSWERS {
            answers.push(ask().await);
        }
        assert!(answers.iter().all(is_compressed));
        assert!(!is_compressed(&ask().await));
        answers.pop();
        assert!(is_compressed(&ask().await), "a place is free again");
    }
}
