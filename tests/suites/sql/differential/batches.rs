//! Random pushes: batches that are as clients write them, and batches that are not.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// The position at which a batch begins, seen from the head of its log.
#[derive(Debug, Clone)]
pub enum Start {
    Head,
    /// So many events before it: stale, or repeated if the contents are those of the log.
    Before(i64),
    After(i64),
}

/// The form in which an event is written.
#[derive(Debug, Clone)]
pub enum Shape {
    /// As `JSON.stringify` writes it.
    Compact,
    /// With white space around each token.
    Spaced,
    /// With its fields in another order.
    Shuffled(Vec<usize>),
    /// With one more field, at this place.
    Extra(usize, String),
    /// Without this field.
    Missing(usize),
    /// With this field twice.
    Twice(usize),
    /// With this value in place of that of a field.
    Other(usize, String),
}

#[derive(Debug, Clone)]
pub struct Event {
    /// JSON text of a string.
    pub name: String,
    /// JSON text.
    pub args: Option<String>,
    /// The distance of the event from its parent, 1 for one that follows it.
    pub step: i64,
    pub shape: Shape,
}

#[derive(Debug, Clone)]
pub struct Batch {
    pub start: Start,
    /// The events of the log again, as far as they are known, in place of `events`.
    pub is_repeated: bool,
    pub events: Vec<Event>,
    /// Characters that are put in place of others.
    pub damage: Vec<(Index, &'static str)>,
}

const FIELDS: [&str; 6] = ["name", "args", "seqNum", "parentSeqNum", "clientId", "sessionId"];

impl Event {
    /// Whether it can be expected to be accepted.
    pub fn looks_valid(&self) -> bool {
        (1..5).contains(&self.step)
            && self.name.starts_with("\"e")
            && matches!(self.shape, Shape::Compact | Shape::Spaced | Shape::Shuffled(_) | Shape::Extra(..))
    }

    /// The event that follows `parent`, and its number.
    pub fn write(&self, parent: i64) -> (String, i64) {
        let seq_num = parent.saturating_add(self.step);
        let (seq_text, parent_text) = (seq_num.to_string(), parent.to_string());
        let values = [
            Some(self.name.as_str()),
            self.args.as_deref(),
            Some(&seq_text),
            Some(&parent_text),
            Some("\"client\""),
            Some("\"session\""),
        ];
        let fields = FIELDS.iter().zip(values);
        let mut fields: Vec<(String, String)> =
            fields.filter_map(|(name, value)| Some((format!("\"{name}\""), value?.to_owned()))).collect();
        let mut space = "";
        match &self.shape {
            Shape::Compact => {}
            Shape::Spaced => space = " \n\t",
            Shape::Shuffled(order) => {
                let mut order: Vec<_> = fields.into_iter().zip(order).collect();
                order.sort_by_key(|(_, place)| **place);
                fields = order.into_iter().map(|(field, _)| field).collect();
            }
            Shape::Extra(place, field) => fields.insert(place % (fields.len() + 1), (field.clone(), "[1,{}]".into())),
            Shape::Missing(place) => drop(fields.remove(place % fields.len())),
            Shape::Twice(place) => {
                let field = fields[place % fields.len()].clone();
                fields.push(field);
            }
            Shape::Other(place, value) => {
                let place = place % fields.len();
                fields[place].1.clone_from(value);
            }
        }
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{space}{name}{space}:{space}{value}{space}")).collect();
        (format!("{{{}}}", fields.join(",")), seq_num)
    }
}

impl Batch {
    /// The text of a batch of these events.
    pub fn damaged(&self, events: &[String]) -> String {
        let mut text = format!("[{}]", events.join(","));
        for (place, instead) in &self.damage {
            let mut characters: Vec<&str> = text.split_inclusive(|_: char| true).collect();
            let place = place.index(characters.len());
            characters[place] = instead;
            text = characters.concat();
        }
        text
    }
}

/// Pieces of strings, private-use characters and what may be taken for their meaning among them.
const PIECES: [&str; 27] = [
    "a",
    "é",
    "😀",
    "\u{2028}",
    r"\u0000",
    r"\u0041",
    r"\ud83d\ude00",
    r"\ud800",
    r"\udc00\ud83d",
    r#"\""#,
    r"\\",
    r"\/",
    r"\n",
    r"\b",
    "[{",
    "]}",
    "\u{e000}",
    "\u{e000}a",
    "\u{e000}e",
    "\u{e000}q",
    "\u{e000}b",
    "\u{e001}",
    r"\\u0000",
    r"\\\u0000",
    r"\u005c",
    "\u{7f}",
    "e",
];

fn string() -> impl Strategy<Value = String> {
    prop::collection::vec(select(PIECES.to_vec()), 0..5).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

/// A name as applications choose them.
fn usual_name() -> impl Strategy<Value = String> {
    select(vec!["\"e\"", "\"eventCreated\"", "\"e\"", "\"eventCreated\"", "\"bad\"", "\"changed\""])
        .prop_map(str::to_owned)
}

fn json() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        select(vec!["null", "true", "0", "-0", "1.0", "1e400", "-1E-999", "12345678901234567890", "0.10", "\"\""])
            .prop_map(str::to_owned),
        string(),
    ];
    let value = scalar.prop_recursive(3, 16, 4, |inner| {
        let key =
            prop_oneof![select(vec!["\"k\"", "\"name\"", "\"seqNum\"", "\"\""]).prop_map(str::to_owned), string()];
        let member = (key, select(vec!["", " "]), inner.clone());
        let members =
            prop::collection::vec(member.prop_map(|(key, space, value)| format!("{key}{space}:{space}{value}")), 0..4);
        prop_oneof![
            (prop::collection::vec(inner, 0..4), select(vec!["", " ", "\t\n"]))
                .prop_map(|(items, space)| format!("[{space}{}{space}]", items.join(","))),
            members.prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    });
    let nested = (505..520usize, any::<bool>()).prop_map(|(depth, is_object)| {
        let (open, close) = if is_object { ("{\"k\":", "}") } else { ("[", "]") };
        format!("{}1{}", open.repeat(depth), close.repeat(depth))
    });
    let wide = (500..600usize).prop_map(|width| format!("[{}{{}}]", r#"[],{"a":"[{\"["},"#.repeat(width)));
    prop_oneof![30 => value, 1 => nested, 1 => wide]
}

/// Texts of values that a field may not have, and some that it may.
fn other_value() -> impl Strategy<Value = String> {
    let numbers = vec![
        "null",
        "true",
        "[]",
        "{}",
        "1.0",
        "1e0",
        "-1",
        "-0",
        "0",
        "\"1\"",
        "9007199254740991",
        "9007199254740992",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775809",
        "999999999999999999",
        "1000000000000000000",
        "18446744073709551616",
        "4503599627370497",
        "2147483700",
    ];
    prop_oneof![select(numbers).prop_map(str::to_owned), string()]
}

fn shape() -> impl Strategy<Value = Shape> {
    let key = prop_oneof![
        select(vec![r#""x""#, r#""n\u0061me""#, r#""\ud800""#, r#""\u0000""#, r#""Name""#]).prop_map(str::to_owned),
        string()
    ];
    prop_oneof![
        40 => Just(Shape::Compact),
        2 => Just(Shape::Spaced),
        2 => Just((0..6).collect::<Vec<_>>()).prop_shuffle().prop_map(Shape::Shuffled),
        2 => (0..7usize, key).prop_map(|(place, key)| Shape::Extra(place, key)),
        1 => (0..6usize).prop_map(Shape::Missing),
        1 => (0..6usize).prop_map(Shape::Twice),
        3 => (0..6usize, other_value()).prop_map(|(place, value)| Shape::Other(place, value)),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let name = prop_oneof![8 => usual_name(), 1 => string()];
    let step =
        prop_oneof![20 => Just(1i64), 2 => 2..5i64, 1 => select(vec![0, -1, 1 << 31, (1 << 31) + 1, 1 << 52, 1 << 53])];
    (name, prop::option::weighted(0.85, json()), step, shape()).prop_map(|(name, args, step, shape)| Event {
        name,
        args,
        step,
        shape,
    })
}

pub fn batch() -> impl Strategy<Value = Batch> {
    let start = prop_oneof![
        8 => Just(Start::Head),
        3 => (1..4i64).prop_map(Start::Before),
        1 => (1..3i64).prop_map(Start::After),
    ];
    let damage = prop_oneof![
        12 => Just(Vec::new()),
        1 => prop::collection::vec(
            (any::<Index>(), select(vec!["", "\"", "\\", "{", "}", "[", "]", ",", ":", "0", "9", "-", "é", " ", "\u{1}", "\u{e000}"])), 1..3
        ),
    ];
    (start, any::<bool>(), prop::collection::vec(event(), 0..4), damage)
        .prop_map(|(start, is_repeated, events, damage)| Batch { start, is_repeated, events, damage })
}
