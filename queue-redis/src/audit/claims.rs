//! Running jobs, and the claims that hold them.

use std::collections::{BTreeSet, HashMap};

use super::fix::Fix;
use super::rules::{Auditor, Place};

/// What a lease that was lost gets: time for its worker to renew it.
const LEASE_MS: u64 = 60_000;

impl Auditor<'_> {
    pub(super) fn claims(&mut self) {
        let mut held: HashMap<&[u8], u64> = HashMap::new();
        for (id, run) in &self.dump.run {
            self.place(*id, Place::Run);
            *held.entry(&run.token).or_default() += 1;
            let claim = self.dump.claims.get(&run.token).and_then(Option::as_ref);
            if claim.is_none_or(|claim| !claim.ids.contains(id)) {
                // It is listed nowhere then, and becomes ready.
                let bytes = id.as_bytes().as_slice();
                let fix = Fix::default()
                    .check(&[b"HGET", b"run", bytes], &run.raw)
                    .write(&[b"HDEL", b"run", bytes])
                    .write(&[b"SREM", b"cancel", bytes]);
                self.job(*id, "runs under a claim that does not list it", Some(fix));
            }
        }
        let tokens: BTreeSet<&[u8]> = (self.dump.claims.keys().chain(self.dump.leases.keys()))
            .map(Vec::as_slice)
            .chain(held.keys().copied())
            .collect();
        for token in tokens {
            self.claim(token, held.get(token).copied().unwrap_or(0));
        }
        for id in self.dump.cancel.iter().filter(|id| !self.dump.run.contains_key(*id)) {
            let bytes = id.as_bytes().as_slice();
            let fix = Fix::default().absent("run", bytes);
            let fix = fix.write(&[b"SREM", b"cancel", bytes]);
            self.job(*id, "has a cancel request but does not run", Some(fix));
        }
    }

    fn claim(&mut self, token: &[u8], jobs: u64) {
        let noted = self.dump.claims.get(token);
        let claim = noted.and_then(Option::as_ref);
        let left = claim.map_or(0, |claim| claim.left);
        let has_lease = self.dump.leases.contains_key(token);
        if jobs > 0 && jobs == left && has_lease {
            return;
        }
        let fix = match claim {
            Some(claim) if jobs > 0 => {
                let mut right = claim.raw.clone();
                let count = u16::try_from(jobs).unwrap_or(u16::MAX).to_be_bytes();
                right[15..17].copy_from_slice(&count);
                let until = (self.dump.now_ms + LEASE_MS).to_string();
                Fix::default()
                    .check(&[b"HGET", b"claims", token], &claim.raw)
                    .write(&[b"HSET", b"claims", token, &right])
                    .write(&[b"ZADD", b"leases", b"NX", until.as_bytes(), token])
            }
            Some(claim) => Fix::default()
                .check(&[b"HGET", b"claims", token], &claim.raw)
                .write(&[b"HDEL", b"claims", token])
                .write(&[b"ZREM", b"leases", token]),
            None if noted.is_some() => Fix::default().write(&[b"HDEL", b"claims", token]),
            None => Fix::default().absent("claims", token).write(&[b"ZREM", b"leases", token]),
        };
        let whole = claim.is_some() && has_lease;
        let what =
            format!("a claim holds {jobs} jobs, counts {left}, and has lease and list: {whole}");
        self.store(what, Some(fix));
    }
}
