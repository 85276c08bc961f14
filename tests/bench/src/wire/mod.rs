//! The clients that make the load: as much of each protocol as a measurement takes, and no more work than that, since they
//! share the machine with what they measure.

pub mod electric;
pub mod http;
pub mod live;
pub mod rpc;
pub mod s2;
pub mod writer;

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

/// The number of times that a text occurs.
pub fn count(haystack: &[u8], needle: &str) -> u64 {
    memchr::memmem::find_iter(haystack, needle.as_bytes()).count() as u64
}

/// The numbers of the events in a text of any protocol: `"seqNum":7`, `"seqNum":"7"`, or the same in a JSON string.
pub fn seq_nums(text: &[u8]) -> Vec<u64> {
    const NAME: &[u8] = b"seqNum";
    let after = memchr::memmem::find_iter(text, NAME).map(|at| &text[at + NAME.len()..]);
    after
        .map(|rest| {
            let digits =
                rest.iter().skip_while(|byte| br#"\": "#.contains(byte)).take_while(|byte| byte.is_ascii_digit());
            digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::seq_nums;

    #[test]
    fn numbers_are_found_in_every_protocol() {
        assert_eq!(seq_nums(br#"{"seqNum":7,"parentSeqNum":6},{"parentSeqNum":7,"seqNum":8}"#), [7, 8]);
        assert_eq!(seq_nums(br#"{"value":{"seqNum":"12"}}"#), [12]);
        assert_eq!(seq_nums(br#"{"seq_num":0,"body":"{\"name\":\"x\",\"seqNum\":1}"}"#), [1]);
    }
}
