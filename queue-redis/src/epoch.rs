//! Noticing that the store is not the one that was opened.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The random names of this store's data, each made with it. If the name changes, the data is
/// gone: somebody has flushed the server, or it came back without its data.
#[derive(Debug)]
pub(crate) struct Epochs(Mutex<Known>);

#[derive(Debug)]
struct Known {
    /// Empty while a store that lost its data is being marked anew.
    current: Vec<u8>,
    /// Answers of before may still be on their way.
    past: Vec<Vec<u8>>,
}

impl Epochs {
    pub(crate) fn new(opened: Vec<u8>) -> Self {
        Self(Mutex::new(Known { current: opened, past: Vec::new() }))
    }

    /// The name of the store that was opened last.
    pub(crate) fn current(&self) -> Vec<u8> {
        self.lock().current.clone()
    }

    /// Compares what a call has seen (empty if the store has no name), and says it loudly, once,
    /// if the data is not what was opened. Says whether the store has no name and should get one.
    pub(crate) fn note(&self, seen: &[u8]) -> bool {
        let mut known = self.lock();
        if known.current == seen || known.past.iter().any(|past| past == seen) {
            return seen.is_empty();
        }
        // What follows on "no name" is the name that this or another program then gives.
        let is_news = !known.current.is_empty();
        let before = std::mem::replace(&mut known.current, seen.to_vec());
        if is_news {
            known.past.push(before);
            drop(known);
            tracing::error!(
                event = "store_was_reset",
                "the store was reset: its data is not the data that this program has opened; jobs \
                 that were in it are gone, and work goes on with what is there now"
            );
        }
        seen.is_empty()
    }

    /// The store has this name now.
    pub(crate) fn opened(&self, epoch: Vec<u8>) {
        self.lock().current = epoch;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Each change is complete before anything can fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_without_a_name_gets_one() {
        let epochs = Epochs::new(b"a".to_vec());
        assert!(!epochs.note(b"a"));
        assert!(epochs.note(b""));
        assert!(epochs.note(b""), "as long as it has none");
        assert!(!epochs.note(b"a"), "a late answer of before");
        assert_eq!(epochs.current(), b"");
        epochs.opened(b"b".to_vec());
        assert!(!epochs.note(b"b") && !epochs.note(b"a"));
        assert!(epochs.note(b""), "it happens again");
    }

    #[test]
    fn a_store_that_another_program_has_named_is_taken_as_it_is() {
        let epochs = Epochs::new(b"a".to_vec());
        assert!(!epochs.note(b"b"));
        assert_eq!(epochs.current(), b"b");
        assert!(!epochs.note(b"b"));
    }
}
