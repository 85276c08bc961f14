//! The harness of the fuzz targets of all crates: a corpus beside the target, and a way to get from its messages to others.
//!
//! A target is a test whose name begins with `fuzz_`. `cargo test` replays its corpus, and a few inputs more; `make fuzz` has a
//! fuzzer look for those that nobody thought of.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

pub use bolero;

/// The number of inputs beside its corpus that a target gets in `cargo test`.
pub const INPUTS: usize = 1000;

/// A target that reads bytes. Its corpus is in `__fuzz__/<name>/corpus`, beside the file: messages as they are on the wire.
#[macro_export]
macro_rules! target {
    ($name:literal, $run:expr) => {{
        let run: fn(&[u8]) = $run;
        let corpus = $crate::Corpus::beside(env!("CARGO_MANIFEST_DIR"), file!(), $name);
        $crate::bolero::check!(name = $name)
            .with_iterations($crate::INPUTS)
            .for_each(|input: &[u8]| corpus.run(input, run));
    }};
}

/// A target that reads text.
#[macro_export]
macro_rules! text_target {
    ($name:literal, $run:expr) => {
        $crate::target!($name, |bytes| {
            let run: fn(&str) = $run;
            if let Ok(text) = std::str::from_utf8(bytes) {
                run(text);
            }
        })
    };
}

/// Pieces to insert into messages: text that parsers have stumbled over.
const TOKENS: [&str; 48] = [
    "",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    " ",
    "\n",
    "\r",
    "\0",
    "\u{feff}",
    "é",
    "😀",
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "0",
    "-1",
    "1.0",
    "-0",
    "1e400",
    "9007199254740991",
    "9007199254740992",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "\\udc00\\ud83d",
    "%",
    "%00",
    "%25",
    "%ff",
    "+",
    "&",
    ";",
    "=",
    "~",
    "_",
    "*",
    "{sub}",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
];

/// The messages that a target begins with.
pub struct Corpus {
    messages: Vec<Vec<u8>>,
    crashes: PathBuf,
}

/// Is left in a file if it breaks a target: its input may be one that only says how to change another.
struct Message<'a> {
    bytes: Cow<'a, [u8]>,
    crashes: &'a Path,
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && std::fs::create_dir_all(self.crashes).is_ok() {
            let _ = std::fs::write(self.crashes.join("message"), &self.bytes);
        }
    }
}

impl Corpus {
    /// That of the target with this name in this file, as `file!()` has it.
    pub fn beside(manifest_dir: &str, file: &str, name: &str) -> Self {
        let file = Path::new(manifest_dir).ancestors().map(|folder| folder.join(file)).find(|file| file.exists());
        let folder = file.unwrap_or_default().with_file_name("__fuzz__").join(name);
        let (corpus, crashes) = (folder.join("corpus"), folder.join("crashes"));
        let mut files: Vec<_> = corpus.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        files.sort();
        let messages: Vec<_> = files.into_iter().filter_map(|file| std::fs::read(file).ok()).collect();
        // From nothing, no random input would get past the syntax.
        assert!(!messages.is_empty(), "there is no corpus in {}", corpus.display());
        Self { messages, crashes }
    }

    /// Runs a target with the message that an input stands for.
    pub fn run(&self, input: &[u8], target: fn(&[u8])) {
        let message = Message { bytes: self.message(input), crashes: &self.crashes };
        target(&message.bytes);
    }

    /// The message that an input stands for: itself; but one that begins as no UTF-8 does says how to change a message of the
    /// corpus. So random bytes get past the syntax, and a fuzzer can use both.
    fn message<'a>(&self, input: &'a [u8]) -> Cow<'a, [u8]> {
        match input {
            [count @ (0x80..=0xc1 | 0xf5..=0xff), which, edits @ ..] => {
                let mut message = self.pick(*which).to_vec();
                for edit in edits.chunks_exact(5).take(1 + usize::from(count % 6)) {
                    self.change(&mut message, [edit[0], edit[1], edit[2], edit[3], edit[4]]);
                }
                message.into()
            }
            _ => input.into(),
        }
    }

    fn pick(&self, which: u8) -> &[u8] {
        &self.messages[usize::from(which) % self.messages.len()]
    }

    /// Puts something in the place of a part of a message, mostly of a whole word.
    fn change(&self, message: &mut Vec<u8>, [high, low, length, kind, what]: [u8; 5]) {
        let part = |of: &[u8], at: u16, length: u8| {
            let is_word = |at: &usize| of[*at].is_ascii_alphanumeric();
            let at = usize::from(at) % (of.len() + 1);
            let begin =
                if length.is_multiple_of(2) { (0..at).rev().take_while(is_word).last().unwrap_or(at) } else { at };
            let end = match length % 16 {
                0 => begin,
                1..=8 => (at..of.len()).find(|at| !is_word(at)).unwrap_or(of.len()),
                length => (begin + usize::from(length)).min(of.len()),
            };
            begin..end
        };
        let (at, other) = (u16::from_be_bytes([high, low]), self.pick(what));
        let replacement = match kind % 4 {
            0 => vec![what],
            1 => other[part(other, at.rotate_left(5), kind)].to_vec(),
            _ => TOKENS[usize::from(what) % TOKENS.len()].into(),
        };
        message.splice(part(message, at, length), replacement);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_is_a_message() {
        let messages = vec![b"".to_vec(), br#"{"name":"e"}"#.to_vec(), b"a=b&c".to_vec()];
        let corpus = Corpus { messages, crashes: PathBuf::new() };
        bolero::check!().with_iterations(INPUTS).for_each(|input: &[u8]| {
            let message = corpus.message(input);
            assert!(message == input || std::str::from_utf8(input).is_err());
        });
        assert_eq!(&*corpus.message(&[0x80, 1, 0, 3, 2, 2, 16]), br#"{"null":"e"}"#);
    }
}
