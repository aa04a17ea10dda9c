//! Free slots: over all kinds, and per kind.

use std::collections::HashMap;

use crate::{Kind, KindSlots};

/// Counts what runs and knows how much more may. Owned by the cycle alone, so there is no lock
/// and a slot cannot be taken twice.
#[derive(Debug)]
pub(super) struct Slots {
    total: usize,
    busy: usize,
    kinds: Vec<KindCount>,
    index: HashMap<Kind, usize>,
}

#[derive(Debug)]
struct KindCount {
    kind: Kind,
    limit: usize,
    busy: usize,
}

impl Slots {
    pub(super) fn new(total: usize, kinds: impl Iterator<Item = (Kind, Option<usize>)>) -> Self {
        let mut kinds: Vec<KindCount> = kinds
            .map(|(kind, limit)| KindCount { kind, limit: limit.unwrap_or(total), busy: 0 })
            .collect();
        kinds.sort_by(|a, b| a.kind.cmp(&b.kind));
        let index = kinds.iter().enumerate().map(|(i, count)| (count.kind.clone(), i)).collect();
        Self { total, busy: 0, kinds, index }
    }

    pub(super) fn take(&mut self, kind: &Kind) {
        self.busy += 1;
        if let Some(index) = self.index.get(kind) {
            self.kinds[*index].busy += 1;
        }
    }

    pub(super) fn give_back(&mut self, kind: &Kind) {
        self.busy = self.busy.saturating_sub(1);
        if let Some(index) = self.index.get(kind) {
            let count = &mut self.kinds[*index];
            count.busy = count.busy.saturating_sub(1);
        }
    }

    pub(super) fn busy(&self) -> usize {
        self.busy
    }

    /// How many more jobs may run now, of any kinds together. Zero if no kind has a free slot.
    pub(super) fn free(&self) -> usize {
        let of_kinds = self.kinds.iter().map(|count| count.limit.saturating_sub(count.busy));
        self.total.saturating_sub(self.busy).min(of_kinds.sum())
    }

    /// Every kind with its free slots, in the order of their names.
    pub(super) fn per_kind(&self) -> Vec<KindSlots> {
        let free = self.total.saturating_sub(self.busy);
        let slots = |count: &KindCount| {
            let slots = count.limit.saturating_sub(count.busy).min(free);
            u32::try_from(slots).unwrap_or(u32::MAX)
        };
        self.kinds
            .iter()
            .map(|count| KindSlots { kind: count.kind.clone(), slots: slots(count) })
            .collect()
    }

    /// The kinds that have a free slot, in the order of their names.
    pub(super) fn free_kinds(&self) -> Vec<Kind> {
        let with_room = self.per_kind().into_iter().filter(|count| count.slots > 0);
        with_room.map(|count| count.kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_limited_by_its_own_slots_and_by_all() {
        let (a, b) = (Kind::new("a").unwrap(), Kind::new("b").unwrap());
        let kinds = [(a.clone(), Some(1)), (b.clone(), None)];
        let mut slots = Slots::new(3, kinds.into_iter());
        let per_kind = |slots: &Slots| slots.per_kind().iter().map(|k| k.slots).collect::<Vec<_>>();
        assert_eq!((per_kind(&slots), slots.free()), (vec![1, 3], 3));
        slots.take(&a);
        assert_eq!((per_kind(&slots), slots.free()), (vec![0, 2], 2));
        assert_eq!(slots.free_kinds(), std::slice::from_ref(&b));
        slots.take(&b);
        slots.take(&b);
        assert_eq!((per_kind(&slots), slots.free()), (vec![0, 0], 0));
        slots.give_back(&a);
        assert_eq!((per_kind(&slots), slots.free()), (vec![1, 1], 1));
    }
}
