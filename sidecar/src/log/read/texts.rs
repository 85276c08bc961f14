//! The texts that protocols make of the events of a page, kept for all clients that are sent the same page.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::log::event::Event;

/// The memory of a text besides its bytes, about.
const OVERHEAD: usize = 256;

/// A read of a page, and the encoding of its events.
type Key = (u64, Box<str>);

/// The texts of all pages.
pub struct Texts {
    kept: Cache<Key, Arc<Text>>,
    /// How often texts were dropped: one of a page that was read before is not kept.
    dropped: AtomicU64,
}

impl Texts {
    /// Keeps so many bytes at most, each text until nobody has asked for it for a while.
    pub fn new(bytes: usize, idle: Duration) -> Self {
        let weigh = |(_, encoding): &Key, text: &Arc<Text>| {
            u32::try_from(OVERHEAD + encoding.len() + text.size()).unwrap_or(u32::MAX)
        };
        let kept = Cache::builder()
            .max_capacity(bytes as u64)
            .weigher(weigh)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(idle)
            .build();
        Self { kept, dropped: AtomicU64::new(0) }
    }

    pub fn drop_all(&self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
        self.kept.invalidate_all();
        self.tidy();
    }

    /// Gives back the memory of what was dropped or is idle.
    pub fn tidy(&self) {
        self.kept.run_pending_tasks();
    }

    /// The texts of a page, for one reader. `page`: the read that it comes from.
    pub fn of(self: &Arc<Self>, page: u64) -> PageTexts {
        let dropped = self.dropped.load(Ordering::SeqCst);
        PageTexts { all: Arc::clone(self), page, dropped, own: OnceLock::new() }
    }
}

/// The texts of one page, as one reader of it uses them.
#[derive(Clone)]
pub struct PageTexts {
    all: Arc<Texts>,
    page: u64,
    dropped: u64,
    /// The text that this reader is sent. It stays while the reader has the page, for the next part of it.
    own: OnceLock<(Box<str>, Arc<Text>)>,
}

impl PageTexts {
    /// The text of all events of the page.
    pub(super) fn get(&self, encoding: &str, events: &[Arc<Event>], encode: impl Fn(&mut String, &Event)) -> Arc<Text> {
        let find = || self.find(encoding, events, &encode);
        let (of, text) = self.own.get_or_init(|| (encoding.into(), find()));
        if **of == *encoding { Arc::clone(text) } else { find() }
    }

    fn find(&self, encoding: &str, events: &[Arc<Event>], encode: impl Fn(&mut String, &Event)) -> Arc<Text> {
        let key = (self.page, encoding.into());
        self.all.kept.get(&key).unwrap_or_else(|| {
            let text = Arc::new(Text::of(events, encode));
            if self.dropped == self.all.dropped.load(Ordering::SeqCst) {
                self.all.kept.insert(key, Arc::clone(&text));
                // Otherwise it evicts now and then, and holds more until then.
                self.all.tidy();
            }
            text
        })
    }
}

/// Encoded events, each with a comma behind it.
pub struct Text {
    text: Box<str>,
    ends: Box<[usize]>,
}

impl Text {
    fn of(events: &[Arc<Event>], encode: impl Fn(&mut String, &Event)) -> Self {
        let mut text = String::new();
        let ends = events.iter().map(|event| {
            encode(&mut text, event);
            text.push(',');
            text.len()
        });
        let ends = ends.collect();
        Self { text: text.into_boxed_str(), ends }
    }

    /// The events of this range, without the last comma.
    pub(super) fn part(&self, range: Range<usize>) -> &str {
        let start = range.start.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied());
        let end = range.end.checked_sub(1).and_then(|last| self.ends.get(last));
        start.zip(end).and_then(|(start, end)| self.text.get(start..end - 1)).unwrap_or_default()
    }

    fn size(&self) -> usize {
        self.text.len() + size_of_val(&*self.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::read::events::Events;
    use crate::log::testing::events;

    fn number(text: &mut String, event: &Event) {
        text.push_str(&event.seq_num.to_string());
    }

    fn text(events: &Events, range: Range<usize>) -> String {
        let mut text = String::new();
        events.part(range).encode_into(&mut text, "number", number);
        text
    }

    fn kept(texts: &Texts) -> u64 {
        texts.tidy();
        texts.kept.entry_count()
    }

    #[test]
    fn a_part_is_the_same_text_with_and_without_a_place_for_it() {
        let texts = Arc::new(Texts::new(1 << 20, Duration::from_secs(60)));
        let alone = Events::from(events(8, 4, 1));
        let shared = alone.clone().with_texts(texts.of(1));
        for (range, wanted) in
            [(0..4, "9,10,11,12"), (1..3, "10,11"), (3..4, "12"), (2..2, ""), (0..0, ""), (3..9, "12")]
        {
            assert_eq!((&*text(&alone, range.clone()), &*text(&shared, range)), (wanted, wanted));
        }
        assert_eq!(text(&Events::default().with_texts(texts.of(2)), 0..0), "");
    }

    #[test]
    fn a_text_is_made_once_for_a_page_and_an_encoding_until_texts_are_dropped() {
        let texts = Arc::new(Texts::new(1 << 20, Duration::from_secs(60)));
        let reader = |page, after| Events::from(events(after, 2, 1)).with_texts(texts.of(page));
        assert_eq!(text(&reader(1, 0), 0..2), "1,2");
        assert_eq!(text(&reader(1, 7), 0..2), "1,2", "the text of the first");
        assert_eq!(text(&reader(2, 7), 0..2), "8,9", "another page");
        let mut other = String::new();
        reader(1, 7).all().encode_into(&mut other, "other", number);
        assert_eq!((&*other, kept(&texts)), ("8,9", 3), "another encoding");

        let before = reader(1, 7);
        texts.drop_all();
        assert_eq!((text(&before, 0..2), kept(&texts)), ("8,9".into(), 0), "of a page that was read before");
        assert_eq!((text(&reader(1, 7), 0..2), kept(&texts)), ("8,9".into(), 1));
    }

    #[test]
    fn texts_are_kept_within_their_bound() {
        let texts = Arc::new(Texts::new(10_000, Duration::from_secs(60)));
        for page in 0..100 {
            let events = Events::from(events(0, 10, 1)).with_texts(texts.of(page));
            assert_eq!(text(&events, 8..10), "9,10");
            assert!(texts.kept.weighted_size() <= 10_000);
        }
        assert!((20..100).contains(&kept(&texts)));
    }
}
