//! Free slots: over all kinds, and per kind.

use crate::{ClaimRequest, Kind, KindLimits, KindSlots, LimitKeys};

/// Counts what runs and knows how much more may. Owned by the cycle alone, so there is no lock
/// and a slot cannot be taken twice.
#[derive(Debug)]
pub(super) struct Slots {
    total: usize,
    busy: usize,
    /// Those that claims have asked for which are not answered yet.
    asked: usize,
    /// In the order of their names.
    kinds: Vec<KindCount>,
}

#[derive(Debug)]
struct KindCount {
    kind: Kind,
    limits: LimitKeys,
    /// The most of this kind; `None` for no limit but the worker's.
    most: Option<usize>,
    busy: usize,
    asked: usize,
}

impl KindCount {
    fn free(&self, total: usize) -> usize {
        self.most.unwrap_or(total).saturating_sub(self.busy + self.asked)
    }
}

impl Slots {
    pub(super) fn new(
        total: usize,
        kinds: impl Iterator<Item = (KindLimits, Option<usize>)>,
    ) -> Self {
        let mut kinds: Vec<KindCount> = kinds
            .map(|(KindLimits { kind, limits }, most)| KindCount {
                kind,
                limits,
                most,
                busy: 0,
                asked: 0,
            })
            .collect();
        kinds.sort_by(|a, b| a.kind.cmp(&b.kind));
        Self { total, busy: 0, asked: 0, kinds }
    }

    /// Changes how many jobs may run; those that run go on.
    pub(super) fn resize(&mut self, total: usize) {
        self.total = total;
    }

    pub(super) fn take(&mut self, kind: &Kind) {
        self.busy += 1;
        if let Some(count) = self.count_of(kind) {
            count.busy += 1;
        }
    }

    pub(super) fn give_back(&mut self, kind: &Kind) {
        self.busy = self.busy.saturating_sub(1);
        if let Some(count) = self.count_of(kind) {
            count.busy = count.busy.saturating_sub(1);
        }
    }

    /// Notes that a claim which is out may fill these slots: no other one may.
    pub(super) fn ask(&mut self, claim: &ClaimRequest) {
        self.asked += claim.max as usize;
        for KindSlots { kind, slots, .. } in &claim.kinds {
            if let Some(count) = self.count_of(kind) {
                count.asked += *slots.min(&claim.max) as usize;
            }
        }
    }

    /// The same claim is out no more.
    pub(super) fn give_up(&mut self, claim: &ClaimRequest) {
        self.asked = self.asked.saturating_sub(claim.max as usize);
        for KindSlots { kind, slots, .. } in &claim.kinds {
            if let Some(count) = self.count_of(kind) {
                count.asked = count.asked.saturating_sub(*slots.min(&claim.max) as usize);
            }
        }
    }

    fn count_of(&mut self, kind: &Kind) -> Option<&mut KindCount> {
        let index = self.kinds.binary_search_by(|count| count.kind.cmp(kind)).ok()?;
        self.kinds.get_mut(index)
    }

    /// How many jobs may run.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Whether one more of this kind may run now, even if a claim that is out has asked for its slot.
    pub(super) fn has_room(&self, kind: &Kind) -> bool {
        let index = self.kinds.binary_search_by(|count| count.kind.cmp(kind));
        let count = index.ok().and_then(|index| self.kinds.get(index));
        // One that is not known is given back when it is to start.
        let most = count.and_then(|count| count.most.map(|most| (count.busy, most)));
        self.busy < self.total && most.is_none_or(|(busy, most)| busy < most)
    }

    /// How many jobs claims that are out may bring for which there will be no slot.
    pub(super) fn asked_ahead(&self) -> usize {
        (self.busy + self.asked).saturating_sub(self.total).min(self.asked)
    }

    pub(super) fn busy(&self) -> usize {
        self.busy
    }

    /// How many more jobs may run now, of any kinds together. Zero if no kind has a free slot.
    pub(super) fn free(&self) -> usize {
        let of_kinds = self.kinds.iter().map(|count| count.free(self.total));
        self.total.saturating_sub(self.busy + self.asked).min(of_kinds.sum())
    }

    /// Whether the jobs of this claim would have slots now, if those that are out brought none.
    pub(super) fn can_take(&self, claim: &ClaimRequest) -> bool {
        let has_room = |KindSlots { kind, slots, .. }: &KindSlots| {
            let index = self.kinds.binary_search_by(|count| count.kind.cmp(kind));
            let count = index.ok().and_then(|index| self.kinds.get(index));
            let most = count.map_or(0, |count| count.most.unwrap_or(self.total));
            let busy = count.map_or(0, |count| count.busy);
            busy + (*slots).min(claim.max) as usize <= most
        };
        self.busy + claim.max as usize <= self.total && claim.kinds.iter().all(has_room)
    }

    /// Whether a kind has slots or limit keys of its own.
    pub(super) fn has_bounded_kinds(&self) -> bool {
        self.kinds.iter().any(|count| count.most.is_some() || !count.limits.is_empty())
    }

    /// Every kind with the jobs that may be claimed of it, in the order of their names: its free
    /// slots, and `ahead` more.
    pub(super) fn per_kind(&self, ahead: usize) -> Vec<KindSlots> {
        let free = self.total.saturating_sub(self.busy + self.asked);
        let slots = |count: &KindCount| {
            let slots = count.free(self.total).min(free) + ahead;
            u32::try_from(slots).unwrap_or(u32::MAX)
        };
        self.kinds
            .iter()
            .map(|count| KindSlots {
                kind: count.kind.clone(),
                slots: slots(count),
                limits: count.limits.clone(),
            })
            .collect()
    }

    /// The kinds that have a free slot, in the order of their names.
    pub(super) fn free_kinds(&self) -> Vec<KindLimits> {
        let with_room = self.per_kind(0).into_iter().filter(|count| count.slots > 0);
        with_room.map(|KindSlots { kind, limits, .. }| KindLimits { kind, limits }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_limited_by_its_own_slots_and_by_all() {
        let (a, b) = (Kind::new("a").unwrap(), Kind::new("b").unwrap());
        let [a_free, b_free] = [a.clone(), b.clone()].map(KindLimits::new);
        let kinds = [(a_free, Some(1)), (b_free.clone(), None)];
        let mut slots = Slots::new(3, kinds.into_iter());
        let per_kind =
            |slots: &Slots| slots.per_kind(0).iter().map(|k| k.slots).collect::<Vec<_>>();
        assert_eq!((per_kind(&slots), slots.free()), (vec![1, 3], 3));
        slots.take(&a);
        assert_eq!((per_kind(&slots), slots.free()), (vec![0, 2], 2));
        assert_eq!(slots.free_kinds(), [b_free]);
        slots.take(&b);
        slots.take(&b);
        assert_eq!((per_kind(&slots), slots.free()), (vec![0, 0], 0));
        slots.give_back(&a);
        assert_eq!((per_kind(&slots), slots.free()), (vec![1, 1], 1));
        slots.resize(1);
        assert_eq!((per_kind(&slots), slots.free()), (vec![0, 0], 0));
        slots.resize(4);
        assert_eq!((per_kind(&slots), slots.free()), (vec![1, 2], 2));
        assert!(slots.has_room(&a) && slots.has_room(&b));
        assert!(slots.has_bounded_kinds());
        slots.take(&a);
        assert!(!slots.has_room(&a) && slots.has_room(&b));
    }

    #[test]
    fn a_claim_can_be_taken_while_the_slots_for_it_are_free() {
        let kind = |name: &str| KindLimits::new(Kind::new(name).unwrap());
        let kinds = [(kind("a"), Some(2)), (kind("b"), None)];
        let mut slots = Slots::new(4, kinds.into_iter());
        let claim = crate::ClaimRequest {
            token: crate::ClaimToken::random(),
            worker: "w".parse().unwrap(),
            queues: Vec::new(),
            kinds: slots.per_kind(0),
            max: 2,
            round_jobs: 0,
            lease: std::time::Duration::from_secs(30),
        };
        assert!(slots.can_take(&claim));
        slots.take(&kind("b").kind);
        slots.take(&kind("b").kind);
        assert!(slots.can_take(&claim));
        slots.take(&kind("b").kind);
        assert!(!slots.can_take(&claim), "two jobs, one slot");
        slots.give_back(&kind("b").kind);
        slots.give_back(&kind("b").kind);
        slots.ask(&claim);
        assert!(slots.can_take(&claim), "another claim is out, and may bring nothing");
        slots.give_up(&claim);
        slots.take(&kind("a").kind);
        assert!(slots.free() == 2 && !slots.can_take(&claim), "one slot for the first kind");
    }

    #[test]
    fn slots_that_a_claim_has_asked_for_are_not_free() {
        let kind = |name: &str| KindLimits::new(Kind::new(name).unwrap());
        let kinds = [(kind("a"), Some(2)), (kind("b"), None)];
        let mut slots = Slots::new(5, kinds.into_iter());
        let claim = |slots: &Slots, max: u32| ClaimRequest {
            token: crate::ClaimToken::random(),
            worker: "w".parse().unwrap(),
            queues: Vec::new(),
            kinds: slots.per_kind(0),
            max,
            round_jobs: 0,
            lease: std::time::Duration::from_secs(30),
        };
        let per_kind =
            |slots: &Slots| slots.per_kind(0).iter().map(|k| k.slots).collect::<Vec<_>>();
        let first = claim(&slots, 1);
        slots.ask(&first);
        assert_eq!((per_kind(&slots), slots.free()), (vec![1, 4], 4));
        let second = claim(&slots, 4);
        slots.ask(&second);
        assert_eq!((per_kind(&slots), slots.free()), (vec![0, 0], 0));
        slots.give_up(&first);
        assert_eq!((per_kind(&slots), slots.free()), (vec![1, 1], 1));
        slots.take(&kind("a").kind);
        slots.give_up(&second);
        assert_eq!((per_kind(&slots), slots.free()), (vec![1, 4], 4));
        let beyond = claim(&slots, 6);
        slots.ask(&beyond);
        assert_eq!((slots.free(), slots.asked_ahead()), (0, 2));
        slots.give_up(&beyond);
        assert_eq!((slots.free(), slots.asked_ahead()), (4, 0));
    }
}
