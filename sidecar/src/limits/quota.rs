//! Limits on how many of something, such as connections, each holder may have at a time.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// A counting limit per holder.
pub struct Quota<K> {
    each: usize,
    taken: Mutex<HashMap<K, usize>>,
}

/// One that is taken; given back when this is dropped.
pub struct Permit<K: Hash + Eq> {
    quota: Arc<Quota<K>>,
    holder: K,
}

impl<K: Hash + Eq + Clone> Quota<K> {
    pub fn new(each: usize) -> Arc<Self> {
        Arc::new(Self { each, taken: Mutex::default() })
    }

    pub fn each(&self) -> usize {
        self.each
    }

    /// `None` if this holder has as many as it may.
    pub fn take(self: &Arc<Self>, holder: K) -> Option<Permit<K>> {
        let mut taken = self.taken.lock();
        let count = taken.get(&holder).copied().unwrap_or_default();
        if count >= self.each {
            return None;
        }
        taken.insert(holder.clone(), count + 1);
        drop(taken);
        Some(Permit { quota: Arc::clone(self), holder })
    }
}

impl<K: Hash + Eq> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut taken = self.quota.taken.lock();
        if let Some(count) = taken.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.holder);
            }
        }
    }
}

impl<K: Hash + Eq> fmt::Debug for Permit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_counted_for_each_and_given_back() {
        let quota = Quota::new(2);
        let (first, second) = (quota.take("a").unwrap(), quota.take("a").unwrap());
        assert!(quota.take("a").is_none());
        let other = quota.take("b").unwrap();
        drop(first);
        let again = quota.take("a").unwrap();
        assert!(quota.take("a").is_none());
        drop((second, other, again));
        assert!(quota.taken.lock().is_empty(), "who has none is forgotten");
    }
}
