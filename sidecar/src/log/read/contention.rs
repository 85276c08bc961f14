//! Delivery in windows, while clients push to one store at the same moment.
//!
//! A LiveStore client whose push was refused, since another client was first, rebases its pending events onto those that it gets, and
//! pushes again. Clients of 0.4.0 lose events if they get more meanwhile (docs/known-problems.md). So the live events of a contended
//! store are held back until nothing follows them for a while, and delivered together.

use std::time::Duration;

use tokio::time::Instant;

/// The longest window, as a multiple of the quiet time that ends one.
const LONGEST: u32 = 4;

/// The time after a window in which no push may be refused for the store to count as calm.
const CALM: Duration = Duration::from_secs(1);

/// The delay of the live events of one store. It takes the same few bytes however much is held back.
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
    /// A push was refused, since another one was first. A window lasts until nothing follows for `quiet`.
    pub fn refused(&mut self, now: Instant, quiet: Duration) {
        self.until = Some(now + quiet * LONGEST + CALM);
    }

    /// Events that follow `after` were appended: in a contended store they are held back.
    pub fn appended(&mut self, after: i64, now: Instant, quiet: Duration) {
        let end = now + quiet;
        match &mut self.window {
            Some(window) if now < window.end => window.end = end.min(window.latest_end),
            window if self.until.is_some_and(|until| now < until) => {
                *window = Some(Window { after, end, latest_end: now + quiet * LONGEST });
            }
            _ => {}
        }
    }

    /// Until when events after `last` are held back. A reader that is further behind than the window does not wait.
    pub fn held(&self, last: i64, now: Instant) -> Option<Instant> {
        let window = self.window.as_ref().filter(|window| now < window.end && window.after <= last)?;
        Some(window.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(100);

    fn after(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn without_a_refusal_nothing_is_held_back() {
        let (mut contention, now) = (Contention::default(), Instant::now());
        contention.appended(0, now, QUIET);
        assert_eq!(contention.held(0, now), None);
    }

    #[test]
    fn what_follows_a_refusal_is_held_back_until_nothing_follows_it() {
        let (mut contention, start) = (Contention::default(), Instant::now());
        contention.refused(start, QUIET);
        contention.appended(7, after(start, 10), QUIET);
        assert_eq!(contention.held(7, after(start, 10)), Some(after(start, 110)));
        contention.appended(8, after(start, 90), QUIET);
        assert_eq!(contention.held(7, after(start, 189)), Some(after(start, 190)));
        assert_eq!(contention.held(7, after(start, 190)), None);
        contention.appended(9, after(start, 200), QUIET);
        assert_eq!(contention.held(9, after(start, 200)), Some(after(start, 300)), "the next window");
    }

    #[test]
    fn a_window_ends_however_much_follows() {
        let (mut contention, start) = (Contention::default(), Instant::now());
        contention.refused(start, QUIET);
        let mut now = start;
        for last in 0.. {
            contention.appended(last, now, QUIET);
            if contention.held(0, now).is_none() {
                break;
            }
            now += QUIET / 2;
        }
        assert_eq!(now, start + QUIET * LONGEST);
    }

    #[test]
    fn a_reader_that_is_behind_does_not_wait() {
        let (mut contention, now) = (Contention::default(), Instant::now());
        contention.refused(now, QUIET);
        contention.appended(7, now, QUIET);
        assert_eq!(contention.held(6, now), None);
    }

    #[test]
    fn contention_ends() {
        let (mut contention, start) = (Contention::default(), Instant::now());
        contention.refused(start, QUIET);
        let calm = start + QUIET * LONGEST + CALM;
        contention.appended(7, calm, QUIET);
        assert_eq!(contention.held(7, calm), None);
    }

    #[test]
    fn without_a_window_nothing_is_held_back() {
        let (mut contention, now) = (Contention::default(), Instant::now());
        contention.refused(now, Duration::ZERO);
        contention.appended(7, now, Duration::ZERO);
        assert_eq!(contention.held(7, now), None);
    }
}
