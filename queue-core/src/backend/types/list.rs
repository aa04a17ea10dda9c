//! Listing jobs in pages.

use std::fmt;
use std::str::FromStr;

use crate::{JobId, JobState, JobSummary, Kind, QueueName, Timestamp};

/// Asks for one page of the jobs in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListRequest {
    /// The state.
    pub state: JobState,
    /// Only jobs of this queue.
    pub queue: Option<QueueName>,
    /// Only jobs of this kind.
    pub kind: Option<Kind>,
    /// The most jobs on the page, 1 to [`PASS_MAX`](crate::backend::PASS_MAX).
    pub limit: u32,
    /// Where the page begins: [`Page::next`] of the one before; `None` for the first.
    pub cursor: Option<Cursor>,
}

impl ListRequest {
    /// The first page of all jobs in `state`, as long as a page can be.
    #[must_use]
    pub const fn new(state: JobState) -> Self {
        Self { state, queue: None, kind: None, limit: crate::backend::PASS_MAX, cursor: None }
    }
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Page {
    /// The jobs, in an order of the store's own (ready jobs lane by lane, in the order in which
    /// they will run).
    pub jobs: Vec<JobSummary>,
    /// The jobs of a listing of quarantined ones, which have no readable summary.
    pub quarantined: Vec<JobId>,
    /// Where the next page begins; `None` after the last one. A page may be short, or even empty,
    /// and still have a next one: the store looks at no more than about
    /// [`PASS_MAX`](crate::backend::PASS_MAX) jobs for each.
    pub next: Option<Cursor>,
    /// The store's time of the page, for those who want to leave later jobs alone.
    pub now: Timestamp,
}

impl Page {
    /// A page.
    #[must_use]
    pub const fn new(
        now: Timestamp,
        jobs: Vec<JobSummary>,
        quarantined: Vec<JobId>,
        next: Option<Cursor>,
    ) -> Self {
        Self { jobs, quarantined, next, now }
    }
}

/// A place in a listing. Opaque: its text is only for the store (and the request) that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(String);

/// The most bytes that the text of a cursor may have.
const CURSOR_MAX_BYTES: usize = 1024;

impl Cursor {
    /// A place, as a store writes it down: printable ASCII without spaces, at most 1024 bytes.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let is_legal = text.len() <= CURSOR_MAX_BYTES && text.bytes().all(|b| b.is_ascii_graphic());
        (is_legal && !text.is_empty()).then_some(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;
    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        Self::new(text).ok_or(InvalidCursor)
    }
}

/// A text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: use the one that came with the page before, unchanged")]
pub struct InvalidCursor;
