//! Pages that several clients read: `pages.rs`.

use super::Protocol;
use super::promises::Promise;
use super::rules::Rule;
use super::state::{Life, Page, SeqNum, Stage, State};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Pages {
    /// It believes that it is told of changes.
    pub hears: bool,
    /// Pages by the event that they follow. `None`: the last page of a log that others write to.
    pub kept: Vec<(SeqNum, Option<Page>)>,
    pub reads: Vec<Read>,
}

/// A read that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Read {
    pub after: SeqNum,
    /// What Postgres has answered.
    pub page: Option<Page>,
    /// Pages were dropped since it began.
    pub is_of_before: bool,
    /// The readers that wait for it.
    pub joined: Vec<usize>,
    /// The readers that asked after it began.
    pub late: Vec<usize>,
}

/// The page that a reader asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ask {
    pub after: SeqNum,
    /// The life of the pages that the reader has; none for its first one.
    pub life: Option<Life>,
    /// It waits for a read.
    pub has_joined: bool,
    /// Its sidecar knew that the event was rewritten.
    pub has_heard: bool,
}

impl Pages {
    pub fn drop_all(&mut self) {
        self.kept.clear();
        for read in &mut self.reads {
            read.is_of_before = true;
        }
    }

    fn kept(&self, after: SeqNum) -> Option<&Option<Page>> {
        self.kept.iter().find(|(key, _)| *key == after).map(|(_, page)| page)
    }

    fn keep(&mut self, after: SeqNum, page: Option<Page>) {
        self.kept.retain(|(key, _)| *key != after);
        self.kept.push((after, page));
        self.kept.sort_by_key(|(key, _)| *key);
    }

    /// A reader waits no longer. Nobody finishes a read for nobody.
    pub fn leave(&mut self, reader: usize) {
        for read in &mut self.reads {
            read.joined.retain(|other| *other != reader);
        }
        self.reads.retain(|read| !read.joined.is_empty());
    }
}

impl Protocol {
    /// A reader begins to ask for a page. Readers are numbered: first the streams, then the scans.
    pub fn ask(&self, state: &mut State, reader: usize, after: SeqNum, life: Option<Life>) -> Ask {
        let at = self.place(state, reader);
        let sidecar = &mut state.sidecars[at];
        for read in sidecar.pages.reads.iter_mut().filter(|read| read.after == after) {
            if !read.late.contains(&reader) {
                read.late.push(reader);
                read.late.sort_unstable();
            }
        }
        Ask { after, life, has_joined: false, has_heard: sidecar.has_heard }
    }

    /// It takes a page that is kept, or joins a read.
    pub fn look(&self, state: &mut State, reader: usize) {
        let Some(ask) = state.ask_of(reader).copied() else { return };
        let at = self.place(state, reader);
        let pages = &state.sidecars[at].pages;
        let kept = pages.kept(ask.after).filter(|_| pages.hears).cloned().flatten();
        if let Some(page) = kept {
            if let Some(page) = self.confirm(state, page, ask.life) {
                return self.take_page(state, reader, ask, page);
            }
            state.sidecars[at].pages.keep(ask.after, None);
        }
        let pages = &mut state.sidecars[at].pages;
        match pages.reads.iter_mut().find(|read| read.after == ask.after) {
            Some(read) => {
                read.joined.push(reader);
                read.joined.sort_unstable();
            }
            None => {
                let (joined, late) = (vec![reader], Vec::new());
                pages.reads.push(Read { after: ask.after, page: None, is_of_before: false, joined, late });
                pages.reads.sort_by_key(|read| read.after);
            }
        }
        if let Some(ask) = state.ask_of(reader) {
            ask.has_joined = true;
        }
    }

    /// `Pages::confirm`: the log may have another head or life now.
    fn confirm(&self, state: &State, page: Page, life: Option<Life>) -> Option<Page> {
        let is_followed = page.is_followed();
        let is_known = if is_followed {
            life == Some(page.life) || !self.keeps(Rule::ConfirmFirstPages)
        } else {
            !self.keeps(Rule::ConfirmLastPages)
        };
        if is_known {
            return Some(page);
        }
        let head = state.head();
        let is_as_it_was = if is_followed { head >= page.head } else { head == page.head };
        (state.life() == page.life && is_as_it_was).then_some(Page { head, ..page })
    }

    /// Postgres answers a read.
    pub fn read_page(&self, state: &mut State, at: usize, read: usize) {
        let after = state.sidecars[at].pages.reads[read].after;
        let page = state.snapshot(after, self.setting.page);
        state.sidecars[at].pages.reads[read].page = Some(page);
    }

    /// The answer has come: the page is kept if it can be, and given to those who wait for it.
    pub fn finish_page(&self, state: &mut State, at: usize, read: usize) {
        let Read { after, page: Some(mut page), is_of_before, joined, late } =
            state.sidecars[at].pages.reads.remove(read)
        else {
            return;
        };
        if !self.keeps(Rule::OneSnapshot) {
            page.events = state.snapshot(after, self.setting.page).events;
        }
        let pages = &mut state.sidecars[at].pages;
        let is_worth_it =
            page.is_followed() || (!page.events.is_empty() && pages.kept(after).is_none_or(|before| before.is_some()));
        if is_worth_it && pages.hears && (!is_of_before || !self.keeps(Rule::KeepNothingOfBefore)) {
            pages.keep(after, Some(page.clone()));
        }
        for reader in joined {
            let Some(ask) = state.ask_of(reader) else { continue };
            ask.has_joined = false;
            if !late.contains(&reader) || !self.keeps(Rule::ShareOnlyLaterReads) {
                let ask = *ask;
                self.take_page(state, reader, ask, page.clone());
            }
        }
    }

    fn take_page(&self, state: &mut State, reader: usize, ask: Ask, page: Page) {
        if ask.has_heard && page.events.iter().any(|event| state.is_outdated(*event)) {
            state.breaks(Promise::Rewritten);
        }
        match reader.checked_sub(state.streams.len()) {
            None => self.deliver_page(state, reader, page),
            Some(scan) => self.scan_page(state, scan, page),
        }
    }

    pub fn place(&self, state: &State, reader: usize) -> usize {
        match reader.checked_sub(state.streams.len()) {
            None => state.streams[reader].at,
            Some(scan) => state.scans[scan].at,
        }
    }
}

impl State {
    /// The page that a reader asks for.
    pub fn ask_of(&mut self, reader: usize) -> Option<&mut Ask> {
        match reader.checked_sub(self.streams.len()) {
            None => self.streams[reader].subscription.as_mut()?.ask.as_mut(),
            Some(scan) => match &mut self.scans[scan].stage {
                Stage::Reading { ask, .. } => Some(ask),
                Stage::Idle | Stage::Done => None,
            },
        }
    }
}
