//! Server-Sent Events by hand.

use reqwest::{RequestBuilder, Response};
use serde_json::Value;

use crate::PATIENCE;

/// A message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub event: String,
    pub id: Option<String>,
    pub data: String,
}

impl Message {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A stream that is being read.
pub struct Messages {
    pub response: Response,
    text: String,
    /// The number of blocks that are only comments, which keep the stream alive.
    pub comments: usize,
}

impl Messages {
    pub async fn of(request: RequestBuilder) -> Self {
        let request = request.header("accept", "text/event-stream").send();
        let response = tokio::time::timeout(PATIENCE, request).await.expect("an answer").expect("an answer");
        Self { response, text: String::new(), comments: 0 }
    }

    /// The next message; none at the end.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                match parse(&block) {
                    Some(message) => return Some(message),
                    None => self.comments += 1,
                }
            }
            let piece =
                tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("a piece").expect("a whole stream");
            self.text.push_str(std::str::from_utf8(&piece?).expect("UTF-8"));
        }
    }

    /// All that are left.
    pub async fn rest(mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self.next().await {
            messages.push(message);
        }
        messages
    }
}

/// Reads a block of lines; none if it is only a comment.
pub fn parse(block: &str) -> Option<Message> {
    let field = |name: &str| {
        let lines: Vec<_> = block.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    };
    Some(Message { event: field("event").unwrap_or_else(|| "message".into()), id: field("id"), data: field("data")? })
}
