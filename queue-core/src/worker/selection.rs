//! Which queue is asked first.

use crate::{InvalidName, QueueName};

/// The queues that a worker serves: in strict order, or taking turns by weight.
///
/// ```
/// use queue_core::QueueSelection;
///
/// // `bulk` runs only when `critical` is empty:
/// let strict = QueueSelection::strict(["critical", "bulk"])?;
/// // of four claims, three ask `default` first:
/// let weighted = QueueSelection::weighted([("default", 3), ("bulk", 1)])?;
/// # Ok::<(), queue_core::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSelection {
    strict: bool,
    queues: Vec<Weighted>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Weighted {
    queue: QueueName,
    weight: u32,
    /// The turns it is owed (smooth weighted round robin, as in nginx).
    credit: i64,
}

impl QueueSelection {
    /// The first queue first, always. A queue that is named twice counts once.
    ///
    /// # Errors
    /// The first text that is not a queue name.
    pub fn strict<N: AsRef<str>>(queues: impl IntoIterator<Item = N>) -> Result<Self, InvalidName> {
        Self::build(true, queues.into_iter().map(|queue| (queue, 1)))
    }

    /// Each queue is asked first in proportion to its weight; one of weight 0 only when the
    /// others have nothing. A queue that is named twice counts once, with its first weight.
    ///
    /// # Errors
    /// The first text that is not a queue name.
    pub fn weighted<N: AsRef<str>>(
        queues: impl IntoIterator<Item = (N, u32)>,
    ) -> Result<Self, InvalidName> {
        Self::build(false, queues)
    }

    fn build<N: AsRef<str>>(
        strict: bool,
        queues: impl IntoIterator<Item = (N, u32)>,
    ) -> Result<Self, InvalidName> {
        let mut selection = Self { strict, queues: Vec::new() };
        for (queue, weight) in queues {
            let queue = QueueName::new(queue)?;
            if selection.queues.iter().all(|known| known.queue != queue) {
                selection.queues.push(Weighted { queue, weight, credit: 0 });
            }
        }
        Ok(selection)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// The queues, in the order they were named.
    #[must_use]
    pub fn names(&self) -> Vec<QueueName> {
        self.queues.iter().map(|weighted| weighted.queue.clone()).collect()
    }

    /// The order for the next claim.
    pub(crate) fn next_order(&mut self) -> Vec<QueueName> {
        if self.strict {
            return self.names();
        }
        let total: i64 = self.queues.iter().map(|weighted| i64::from(weighted.weight)).sum();
        for weighted in &mut self.queues {
            weighted.credit += i64::from(weighted.weight);
        }
        let mut order: Vec<usize> = (0..self.queues.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(self.queues[*index].credit));
        if let Some(first) = order.first() {
            self.queues[*first].credit -= total;
        }
        order.into_iter().map(|index| self.queues[index].queue.clone()).collect()
    }
}

impl Default for QueueSelection {
    /// The queue `default` alone.
    fn default() -> Self {
        let queue = QueueName::default();
        Self { strict: true, queues: vec![Weighted { queue, weight: 1, credit: 0 }] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_keeps_its_order_and_drops_repeats() {
        let mut selection = QueueSelection::strict(["b", "a", "b"]).unwrap();
        for _ in 0..3 {
            let order = selection.next_order();
            assert_eq!(order.iter().map(QueueName::as_str).collect::<Vec<_>>(), ["b", "a"]);
        }
    }

    #[test]
    fn weights_decide_how_often_a_queue_is_first_and_all_are_always_named() {
        let mut selection = QueueSelection::weighted([("a", 3), ("b", 1), ("c", 0)]).unwrap();
        let mut first_a = 0;
        for _ in 0..400 {
            let order = selection.next_order();
            assert_eq!(order.len(), 3);
            assert_ne!(order[0].as_str(), "c");
            first_a += usize::from(order[0].as_str() == "a");
        }
        assert_eq!(first_a, 300);
    }
}
