//! What claims know about the limit keys that their jobs hold.

use queue_core::{ClaimToken, Ending, JobId, Kind, LimitKey, LimitKeys, Timestamp};
use rusqlite::{OptionalExtension, Row};

use super::{Runs, Session, runs_of};
use crate::errors::Fault;
use crate::rows::{LaneName, limits_of, limits_text, number, text, time};

pub(crate) const SELECT_HOLDING: &str =
    "SELECT claim, claimed_ms, added, jobs, runs FROM claim WHERE claim = ?1";
pub(crate) const SELECT_HOLDING_BY_TOKEN: &str =
    "SELECT claim, claimed_ms, added, jobs, runs FROM claim WHERE token = ?1";

/// The limit keys that a worker added to those of its jobs, by kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Added(Vec<(Kind, LimitKeys)>);

impl Added {
    /// From a column; see the table `claim`. What cannot be read is left out.
    pub(crate) fn parse(stored: &str) -> Self {
        let of_kind = |part: &str| {
            let (kind, limits) = part.split_once(' ')?;
            Some((Kind::new(kind).ok()?, limits_of(limits)?))
        };
        Self(stored.split(',').filter_map(of_kind).collect())
    }

    /// As a column; `None` if there are none.
    pub(crate) fn text<'k>(
        kinds: impl IntoIterator<Item = (&'k Kind, &'k LimitKeys)>,
    ) -> Option<String> {
        let kinds = kinds.into_iter().filter(|(_, limits)| !limits.is_empty());
        let parts = kinds.map(|(kind, limits)| format!("{kind} {}", limits_text(limits)));
        let parts: Vec<String> = parts.collect();
        (!parts.is_empty()).then(|| parts.join(","))
    }

    /// The keys that a job of this lane holds.
    pub(crate) fn union(&self, lane: &LaneName) -> Vec<LimitKey> {
        match self.0.iter().find(|(kind, _)| *kind == lane.kind) {
            Some((_, limits)) => lane.limits.union(limits),
            None => lane.limits.to_vec(),
        }
    }
}

/// A claim, as far as it matters for the jobs that leave it and the keys that these hold.
#[derive(Debug, Clone)]
pub(crate) struct Holding {
    pub(crate) claim: i64,
    pub(crate) claimed_at: Timestamp,
    added: Added,
    /// How many jobs it holds, and which it took.
    pub(crate) jobs: i64,
    pub(crate) runs: Runs,
}

impl Holding {
    /// The keys that a job of this lane holds.
    pub(crate) fn keys_of(&self, lane: &LaneName) -> Vec<LimitKey> {
        self.added.union(lane)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let added = text(row, 2)?.map(Added::parse).unwrap_or_default();
        let (claim, claimed_at) = (number(row, 0)?, time(number(row, 1)?));
        Ok(Self { claim, claimed_at, added, jobs: number(row, 3)?, runs: runs_of(row, 4)? })
    }
}

impl Session<'_> {
    pub(crate) fn holding(&self, claim: i64) -> Result<Option<Holding>, Fault> {
        let mut select = self.conn.prepare_cached(SELECT_HOLDING)?;
        Ok(select.query_row([claim], Holding::read).optional()?)
    }

    pub(crate) fn holding_of(&self, token: ClaimToken) -> Result<Option<Holding>, Fault> {
        let mut select = self.conn.prepare_cached(SELECT_HOLDING_BY_TOKEN)?;
        Ok(select.query_row([token.as_bytes()], Holding::read).optional()?)
    }

    /// Running jobs of one lane and claim let go of their limit keys, in this order.
    pub(crate) fn let_go_of_keys(
        &mut self,
        lane: i64,
        jobs: &[(JobId, Ending)],
        holding: &Holding,
    ) -> Result<(), Fault> {
        let lane = &self.lanes.load(lane)?.name;
        if lane.limits.is_empty() && holding.added.0.is_empty() {
            return Ok(());
        }
        let keys = holding.keys_of(lane);
        for key in &keys {
            self.limits.end(key, jobs, holding.claimed_at, self.now)?;
        }
        if !keys.is_empty() {
            // Whoever waits for room.
            self.announce();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_keys_are_read_as_they_were_written() {
        let [a, b, c] = ["a", "b", "c"].map(|kind| Kind::new(kind).unwrap());
        let limits = LimitKeys::parse(["x:2", "x:1"]).unwrap();
        let one = LimitKeys::parse(["y:+"]).unwrap();
        let kinds = [(&a, &limits), (&b, &LimitKeys::NONE), (&c, &one)];
        let stored = Added::text(kinds).unwrap();
        assert_eq!(stored, "a x:1 x:2,c y:+");
        let added = Added::parse(&stored);
        assert_eq!(added.0, [(a, limits), (c, one)]);
        assert_eq!(Added::text([(&b, &LimitKeys::NONE)]), None);
        assert!(Added::parse("").0.is_empty() && Added::parse("a x,,b").0.is_empty());
    }
}
