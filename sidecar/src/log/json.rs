//! Text as JSON.

/// Appends text as a JSON string, as `serde_json` writes it. Dialects put the JSON of an event into a string, so this is most of the work
/// of reading: what needs no escape is copied in pieces as long as possible.
pub fn quote_into(json: &mut String, text: &str) {
    json.reserve(text.len() + 2);
    json.push('"');
    let mut copied = 0;
    for (place, byte) in text.bytes().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        json.push_str(&text[copied..place]);
        copied = place + 1;
        match byte {
            b'"' => json.push_str("\\\""),
            b'\\' => json.push_str("\\\\"),
            b'\n' => json.push_str("\\n"),
            b'\r' => json.push_str("\\r"),
            b'\t' => json.push_str("\\t"),
            0x08 => json.push_str("\\b"),
            0x0c => json.push_str("\\f"),
            _ => {
                json.push_str("\\u00");
                json.extend([byte >> 4, byte & 0xf].map(|half| char::from_digit(half.into(), 16).unwrap_or('0')));
            }
        }
    }
    json.push_str(&text[copied..]);
    json.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quoted(text: &str) -> String {
        let mut json = String::new();
        quote_into(&mut json, text);
        json
    }

    proptest! {
        #[test]
        fn text_is_quoted_as_serde_json_does_it(text in any::<String>(), ascii in "[\\x00-\\x7f]*") {
            for text in [text, ascii] {
                prop_assert_eq!(quoted(&text), serde_json::Value::from(&*text).to_string());
            }
        }
    }

    #[test]
    fn each_byte_of_ascii_is_quoted_as_serde_json_does_it() {
        let all: String = (0..=0x7f).map(char::from).collect();
        assert_eq!(quoted(&all), serde_json::Value::from(&*all).to_string());
    }
}
