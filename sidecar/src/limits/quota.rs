//! Places of which each holder has a limited number, such as connections.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// So many for each.
pub struct Places<K> {
    each: usize,
    taken: Mutex<HashMap<K, usize>>,
}

/// One that is taken, until this is dropped.
pub struct Place<K: Hash + Eq> {
    places: Arc<Places<K>>,
    holder: K,
}

impl<K: Hash + Eq + Clone> Places<K> {
    pub fn new(each: usize) -> Arc<Self> {
        Arc::new(Self { each, taken: Mutex::default() })
    }

    pub fn each(&self) -> usize {
        self.each
    }

    /// `None` if this holder has them all.
    pub fn take(self: &Arc<Self>, holder: K) -> Option<Place<K>> {
        let mut taken = self.taken.lock();
        let count = taken.get(&holder).copied().unwrap_or_default();
        if count >= self.each {
            return None;
        }
        taken.insert(holder.clone(), count + 1);
        drop(taken);
        Some(Place { places: Arc::clone(self), holder })
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        if let Some(count) = taken.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.holder);
            }
        }
    }
}

impl<K: Hash + Eq> fmt::Debug for Place<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn places_are_counted_for_each_and_given_back() {
        let places = Places::new(2);
        let (first, second) = (places.take("a").unwrap(), places.take("a").unwrap());
        assert!(places.take("a").is_none());
        let other = places.take("b").unwrap();
        drop(first);
        let again = places.take("a").unwrap();
        assert!(places.take("a").is_none());
        drop((second, other, again));
        assert!(places.taken.lock().is_empty(), "who has none is forgotten");
    }
}
