//! HTTP/1.1 over one connection that is kept.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub struct Http(SendRequest<Full<Bytes>>);

impl Http {
    /// To this machine.
    pub async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("somebody listens");
        stream.set_nodelay(true).expect("a socket");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        Self(sender)
    }

    /// Sends JSON and waits for the whole answer.
    pub async fn post(&mut self, path: &str, headers: &[(&str, &str)], body: String) -> Bytes {
        let answer = self.request(Method::POST, path, headers, body).await;
        answer.into_body().collect().await.expect("an answer").to_bytes()
    }

    /// The answer's body has still to be read.
    pub async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
        self.request(Method::GET, path, headers, String::new()).await
    }

    /// The same, whatever the answer is.
    pub async fn try_post(&mut self, path: &str, body: String) -> (StatusCode, Bytes) {
        let answer = self.send(Method::POST, path, &[], body).await;
        (answer.status(), answer.into_body().collect().await.expect("an answer").to_bytes())
    }

    async fn request(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Response<Incoming> {
        let answer = self.send(method, path, headers, body).await;
        if !answer.status().is_success() {
            let status = answer.status();
            let body = answer.into_body().collect().await.expect("an answer").to_bytes();
            panic!("{path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        answer
    }

    async fn send(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: String) -> Response<Incoming> {
        let request = Request::builder().method(method).uri(path).header("host", "127.0.0.1");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.header("content-type", "application/json").body(Full::new(Bytes::from(body)));
        self.0.ready().await.expect("the connection holds");
        self.0.send_request(request.expect("a request")).await.expect("an answer")
    }
}
