//! The clients' need of the database. While no client needs it, a sidecar with `--database-idle-close` has no connection to it,
//! so that a serverless database can be suspended. The next client wakes it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::info;

/// Cheap to clone.
#[derive(Clone)]
pub struct Demand(Option<Arc<Watched>>);

struct Watched {
    idle_close: Duration,
    state: Mutex<State>,
    is_awake: watch::Sender<bool>,
}

struct State {
    holds: usize,
    last_use: Instant,
}

/// The database is needed until this is dropped.
pub struct Hold(Option<Arc<Watched>>);

impl Demand {
    /// Without `idle_close` the database is always needed.
    pub fn new(idle_close: Option<Duration>) -> Self {
        Self(idle_close.map(|idle_close| {
            let state = Mutex::new(State { holds: 0, last_use: Instant::now() });
            Arc::new(Watched { idle_close, state, is_awake: watch::Sender::new(true) })
        }))
    }

    pub fn hold(&self) -> Hold {
        if let Some(watched) = &self.0 {
            watched.update(|state| state.holds += 1);
        }
        Hold(self.0.clone())
    }

    /// The database is used now.
    pub fn touch(&self) {
        if let Some(watched) = &self.0 {
            watched.update(|_| ());
        }
    }

    pub fn is_asleep(&self) -> bool {
        self.0.as_ref().is_some_and(|watched| !*watched.is_awake.borrow())
    }

    /// Waits until nobody needs the database. Cancel safe.
    pub async fn asleep(&self) {
        self.becomes(false).await;
    }

    /// Waits until somebody needs the database. Cancel safe.
    pub async fn awake(&self) {
        self.becomes(true).await;
    }

    async fn becomes(&self, awake: bool) {
        match &self.0 {
            Some(watched) => drop(watched.is_awake.subscribe().wait_for(|is_awake| *is_awake == awake).await),
            None if awake => {}
            None => std::future::pending().await,
        }
    }

    /// Calls `close` each time that nobody has needed the database for long, unless `is_busy` tells otherwise. Never ends.
    pub async fn watch(&self, is_busy: impl Fn() -> bool, close: impl Fn()) {
        let Some(watched) = &self.0 else {
            return std::future::pending().await;
        };
        loop {
            self.awake().await;
            let last_use = watched.state.lock().last_use;
            sleep_until(last_use + watched.idle_close).await;
            if is_busy() {
                self.touch();
            } else if watched.sleep() {
                info!("nobody is connected: the connections to the database are closed until somebody is");
                close();
            }
        }
    }
}

impl Watched {
    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        state.last_use = Instant::now();
        change(&mut state);
        // Under the lock, since `sleep` decides under it.
        self.is_awake.send_if_modified(|is_awake| !std::mem::replace(is_awake, true));
    }

    /// Whether it is time to sleep.
    fn sleep(&self) -> bool {
        let mut state = self.state.lock();
        if state.holds > 0 {
            state.last_use = Instant::now();
        }
        let is_idle = state.holds == 0 && state.last_use.elapsed() >= self.idle_close;
        if is_idle {
            self.is_awake.send_replace(false);
        }
        is_idle
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(watched) = &self.0 {
            watched.update(|state| state.holds -= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn sleeps(demand: &Demand) -> bool {
        demand.0.as_ref().unwrap().sleep()
    }

    #[test]
    fn the_database_is_left_alone_once_nobody_needs_it_and_until_somebody_does() {
        let demand = Demand::new(Some(Duration::ZERO));
        let (one, two) = (demand.hold(), demand.hold());
        drop(one);
        assert!(!sleeps(&demand) && !demand.is_asleep(), "it is held");
        drop(two);
        assert!(sleeps(&demand) && demand.is_asleep());
        assert!(demand.asleep().now_or_never().is_some() && demand.awake().now_or_never().is_none());
        demand.touch();
        assert!(!demand.is_asleep() && demand.awake().now_or_never().is_some());
        assert!(sleeps(&demand));
        let _hold = demand.hold();
        assert!(!demand.is_asleep() && !sleeps(&demand));
    }

    #[test]
    fn it_is_needed_for_a_while_after_each_use_and_always_without_the_option() {
        assert!(!sleeps(&Demand::new(Some(Duration::from_secs(3600)))));
        let always = Demand::new(None);
        always.touch();
        drop(always.hold());
        assert!(!always.is_asleep() && always.asleep().now_or_never().is_none());
        assert!(always.awake().now_or_never().is_some());
    }
}
