//! The clients that make the load: as much of each protocol as a measurement takes, and no more work than that, since they
//! share the machine with what they measure.

pub mod electric;
mod http;
pub mod rpc;
pub mod s2;

use std::fmt::Write;

/// The event at this position as LiveStore's clients send it, about 200 bytes: a todo with a text of a line.
pub fn event(into: &mut String, seq_num: u64) {
    write!(
        into,
        r#"{{"name":"todoCreated","args":{{"id":"todo-{seq_num}","text":"Something that has to be done soon, number {seq_num}"}},"seqNum":{seq_num},"parentSeqNum":{},"clientId":"bench","sessionId":"bench"}}"#,
        seq_num - 1
    )
    .expect("a String takes everything");
}

/// The events behind this head, as a JSON array.
pub fn batch(into: &mut String, head: u64, count: u64) {
    into.push('[');
    for seq_num in head + 1..=head + count {
        if seq_num > head + 1 {
            into.push(',');
        }
        event(into, seq_num);
    }
    into.push(']');
}

/// How often a text occurs.
pub fn count(haystack: &[u8], needle: &str) -> u64 {
    memchr::memmem::find_iter(haystack, needle.as_bytes()).count() as u64
}
