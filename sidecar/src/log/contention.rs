//! Delivery in windows, while clients of one store push at the same moment.
//!
//! A LiveStore client whose push is refused, since another client was first, rebases what it has pending onto the events that it
//! gets, and pushes again. Event by event it would rebase and lose again and again; clients of 0.4.0 break over that
//! (docs/known-problems.md). So while a store is contended, its live events are held back for a moment, and delivered together.

use std::time::Duration;

use tokio::time::Instant;

/// How long a store counts as contended after a push was refused.
const CALM: Duration = Duration::from_secs(1);

/// A window lasts no longer than so many times that.
const MOST: u32 = 5;

/// What delays the live events of one store.
#[derive(Default)]
pub struct Contention {
    until: Option<Instant>,
    window: Option<Window>,
}

/// Events that are held back.
struct Window {
    /// The last event before them.
    after: i64,
    end: Instant,
    latest_end: Instant,
}

impl Contention {
    /// A push was refused, since another one was first.
    pub fn refused(&mut self, now: Instant) {
        self.until = Some(now + CALM);
    }

    /// Events that follow `after` were appended: in a contended store they are held back until nothing follows them for this long.
    pub fn appended(&mut self, after: i64, now: Instant, quiet: Duration) {
        let end = now + quiet;
        match &mut self.window {
            Some(window) if now < window.end => window.end = end.min(window.latest_end),
            window if self.until.is_some_and(|until| now < until) => {
                *window = Some(Window { after, end, latest_end: now + quiet * MOST });
            }
            _ => {}
        }
    }

    /// Until when a reader of everything up to `last` waits for what follows. A reader that is further behind does not wait.
    pub fn held(&self, last: i64, now: Instant) -> Option<Instant> {
        let window = self.window.as_ref().filter(|window| now < window.end && window.after <= last)?;
        Some(window.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_millis(100);

    fn after(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn without_a_refusal_nothing_is_held_back() {
        let (mut contention, now) = (Contention::default(), Instant::now());
        contention.appended(0, now, LENGTH);
        assert_eq!(contention.held(0, now), None);
    }

    #[test]
    fn what_follows_a_refusal_is_held_back_until_the_end_of_its_window() {
        let (mut contention, start) = (Contention::default(), Instant::now());
        contention.refused(start);
        contention.appended(7, after(start, 10), LENGTH);
        contention.appended(8, after(start, 90), LENGTH);
        assert_eq!(contention.held(7, after(start, 109)), Some(after(start, 110)), "nothing makes a window longer");
        assert_eq!(contention.held(7, after(start, 110)), None);
        contention.appended(9, after(start, 110), LENGTH);
        assert_eq!(contention.held(9, after(start, 110)), Some(after(start, 210)), "the next window");
    }

    #[test]
    fn a_reader_that_is_behind_does_not_wait() {
        let (mut contention, now) = (Contention::default(), Instant::now());
        contention.refused(now);
        contention.appended(7, now, LENGTH);
        assert_eq!(contention.held(6, now), None);
    }

    #[test]
    fn contention_ends() {
        let (mut contention, start) = (Contention::default(), Instant::now());
        contention.refused(start);
        let calm = start + CALM;
        contention.appended(7, calm, LENGTH);
        assert_eq!(contention.held(7, calm), None);
    }

    #[test]
    fn a_window_of_no_length_holds_nothing_back() {
        let (mut contention, now) = (Contention::default(), Instant::now());
        contention.refused(now);
        contention.appended(7, now, Duration::ZERO);
        assert_eq!(contention.held(7, now), None);
    }
}
