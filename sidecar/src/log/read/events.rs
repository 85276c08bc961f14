//! The events of a page or of a delivery, as protocols encode them.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use super::texts::PageTexts;
use crate::log::event::Event;

/// Events of a log, in order. Cheap to clone.
#[derive(Clone, Default)]
pub struct Events {
    list: Arc<Vec<Arc<Event>>>,
    /// The place of their texts, if several clients are sent the same events.
    texts: Option<PageTexts>,
}

impl Events {
    /// The same events, whose texts are made once for all who are sent them.
    pub(super) fn with_texts(self, texts: PageTexts) -> Self {
        Self { texts: Some(texts), ..self }
    }

    pub fn all(&self) -> Part<'_> {
        self.part(0..self.list.len())
    }

    /// Those in this range, and no others if it goes beyond the end.
    pub fn part(&self, range: Range<usize>) -> Part<'_> {
        let end = range.end.min(self.list.len());
        Part { all: self, start: range.start.min(end), end }
    }
}

impl From<Vec<Arc<Event>>> for Events {
    fn from(list: Vec<Arc<Event>>) -> Self {
        Self { list: Arc::new(list), texts: None }
    }
}

impl Deref for Events {
    type Target = [Arc<Event>];

    fn deref(&self) -> &[Arc<Event>] {
        &self.list
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.fmt(f)
    }
}

/// Some of the events, one behind the other.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    all: &'a Events,
    start: usize,
    end: usize,
}

impl Part<'_> {
    /// Appends what `encode` writes of each event, with commas between them. `encoding` names what it writes: the same name stands
    /// for the same text.
    pub fn encode_into(self, text: &mut String, encoding: &str, encode: impl Fn(&mut String, &Event)) {
        if let Some(texts) = &self.all.texts {
            text.push_str(texts.get(encoding, self.all, encode).part(self.start..self.end));
            return;
        }
        for (place, event) in self.iter().enumerate() {
            if place > 0 {
                text.push(',');
            }
            encode(text, event);
        }
    }
}

impl Deref for Part<'_> {
    type Target = [Arc<Event>];

    fn deref(&self) -> &[Arc<Event>] {
        &self.all[self.start..self.end]
    }
}
