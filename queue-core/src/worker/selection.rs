//! Which queue is asked first.

use crate::{InvalidName, QueueName};

/// The queues that a worker serves: in strict order, taking turns by weight, or both.
///
/// ```
/// use queue_core::QueueSelection;
///
/// // `bulk` runs only when `critical` is empty:
/// let strict = QueueSelection::strict(["critical", "bulk"])?;
/// // of four claims, three ask `default` first:
/// let weighted = QueueSelection::weighted([("default", 3), ("bulk", 1)])?;
/// // `critical` always first, then the other two by their weights:
/// let both = QueueSelection::ordered([("critical", None), ("default", Some(3)), ("bulk", Some(1))])?;
/// # Ok::<(), queue_core::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSelection {
    queues: Vec<Selected>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Selected {
    queue: QueueName,
    /// `None` keeps its place, whatever the others do.
    weight: Option<u32>,
    /// The turns it is owed (smooth weighted round robin, as in nginx).
    credit: i64,
}

impl QueueSelection {
    /// The first queue first, always. A queue that is named twice counts once.
    ///
    /// # Errors
    /// The first text that is not a queue name.
    pub fn strict<N: AsRef<str>>(queues: impl IntoIterator<Item = N>) -> Result<Self, InvalidName> {
        Self::ordered(queues.into_iter().map(|queue| (queue, None)))
    }

    /// Each queue is asked first in proportion to its weight; one of weight 0 only when the
    /// others have nothing. A queue that is named twice counts once, with its first weight.
    ///
    /// # Errors
    /// The first text that is not a queue name.
    pub fn weighted<N: AsRef<str>>(
        queues: impl IntoIterator<Item = (N, u32)>,
    ) -> Result<Self, InvalidName> {
        Self::ordered(queues.into_iter().map(|(queue, weight)| (queue, Some(weight))))
    }

    /// Queues in strict order, except that neighbours with weights take turns among themselves at
    /// their place. A queue that is named twice counts once, where it is named first.
    ///
    /// # Errors
    /// The first text that is not a queue name.
    pub fn ordered<N: AsRef<str>>(
        queues: impl IntoIterator<Item = (N, Option<u32>)>,
    ) -> Result<Self, InvalidName> {
        let mut selection = Self { queues: Vec::new() };
        for (queue, weight) in queues {
            let queue = QueueName::new(queue)?;
            if selection.queues.iter().all(|known| known.queue != queue) {
                selection.queues.push(Selected { queue, weight, credit: 0 });
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
        self.queues.iter().map(|selected| selected.queue.clone()).collect()
    }

    /// For each queue in the order they were named, when it is served: only if those of lower ranks have
    /// nothing. Queues of one rank take turns.
    pub(crate) fn ranks(&self) -> Vec<u32> {
        let (mut ranks, mut rank, mut before) = (Vec::new(), 0, None);
        for Selected { weight, .. } in &self.queues {
            let takes_turns = weight.is_some() && before == Some(true);
            rank += if before.is_some() && !takes_turns { 2 } else { 0 };
            before = Some(weight.is_some());
            // One of weight 0 comes after its neighbours.
            ranks.push(rank + u32::from(*weight == Some(0)));
        }
        ranks
    }

    /// The order for the next claim.
    pub(crate) fn next_order(&mut self) -> Vec<QueueName> {
        let mut order = Vec::with_capacity(self.queues.len());
        let takes_turns = |selected: &Selected| selected.weight.is_some();
        for neighbours in self.queues.chunk_by_mut(|a, b| takes_turns(a) && takes_turns(b)) {
            order.extend(turns(neighbours));
        }
        order
    }
}

/// The order of neighbours for the next claim.
fn turns(neighbours: &mut [Selected]) -> Vec<QueueName> {
    let weight = |selected: &Selected| i64::from(selected.weight.unwrap_or(0));
    let total: i64 = neighbours.iter().map(weight).sum();
    for selected in neighbours.iter_mut() {
        selected.credit += weight(selected);
    }
    let mut order: Vec<usize> = (0..neighbours.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(neighbours[*index].credit));
    if let Some(first) = order.first() {
        neighbours[*first].credit -= total;
    }
    order.into_iter().map(|index| neighbours[index].queue.clone()).collect()
}

impl Default for QueueSelection {
    /// The queue `default` alone.
    fn default() -> Self {
        let queue = QueueName::default();
        Self { queues: vec![Selected { queue, weight: None, credit: 0 }] }
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

    #[test]
    fn neighbours_with_weights_take_turns_at_their_place() {
        let named = [("a", None), ("b", Some(2)), ("c", Some(1)), ("d", None), ("e", Some(1))];
        let mut selection = QueueSelection::ordered(named).unwrap();
        let orders: Vec<String> = (0..3)
            .map(|_| selection.next_order().iter().map(QueueName::as_str).collect())
            .collect();
        assert_eq!(orders, ["abcde", "acbde", "abcde"]);
        assert_eq!(selection.ranks(), [0, 2, 2, 4, 6]);
    }

    #[test]
    fn a_weight_of_0_ranks_after_its_neighbours_and_before_what_follows_them() {
        let named = [("a", Some(0)), ("b", Some(2)), ("c", None), ("d", None)];
        assert_eq!(QueueSelection::ordered(named).unwrap().ranks(), [1, 0, 2, 4]);
    }
}
