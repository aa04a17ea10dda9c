//! The small words of the model: numbers, sets of numbers, states and outcomes.

use std::fmt;

/// A job's id.
pub(crate) type Job = usize;
/// A worker.
pub(crate) type Worker = usize;

/// The most claims that one worker makes.
pub(crate) const CLAIMS_MAX: usize = 4;

/// One claim of one worker; all copies of its request carry it. It stands for the 128 random bits
/// that the client makes: never the same twice, and nothing that the store does changes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ClaimId(pub(crate) usize);

impl ClaimId {
    pub(crate) fn of(worker: Worker, number: usize) -> Self {
        assert!(number < CLAIMS_MAX);
        Self(worker * CLAIMS_MAX + number)
    }

    pub(crate) fn worker(self) -> Worker {
        self.0 / CLAIMS_MAX
    }

    /// The random number as a token.
    pub(crate) fn as_token(self) -> Token {
        Token(self.0 as u8)
    }
}

impl fmt::Debug for ClaimId {
    /// `w1#0` is the first claim of worker 1.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}#{}", self.worker(), self.0 % CLAIMS_MAX)
    }
}

/// What a worker shows to prove that it holds a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token(pub(crate) u8);

/// Where a job stands; `Waiting` is scheduled and retrying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Ready,
    Waiting,
    Running,
    Completed,
    Dead,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// T6.
    Completed,
    /// T7, or T8 at the last attempt.
    Failed,
    /// T9: given back, not counted.
    Released,
}

/// A set of numbers below 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct SmallSet(u16);

impl SmallSet {
    pub(crate) fn insert(&mut self, number: usize) {
        self.0 |= 1 << number;
    }

    pub(crate) fn remove(&mut self, number: usize) {
        self.0 &= !(1 << number);
    }

    pub(crate) fn has(self, number: usize) -> bool {
        self.0 & (1 << number) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..16).filter(move |number| self.has(*number))
    }
}

impl FromIterator<usize> for SmallSet {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        let mut set = Self::default();
        numbers.into_iter().for_each(|number| set.insert(number));
        set
    }
}
