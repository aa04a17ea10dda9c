//! Running jobs, and the claims that hold them.

use super::dump::Holding;
use super::fix::Fix;
use super::rules::{Auditor, Place};

/// What a lease that was lost gets: time for its worker to renew it.
const LEASE_MS: u64 = 60_000;

impl Auditor<'_> {
    pub(super) fn claims(&mut self) {
        for (id, run) in &self.dump.run {
            self.place(*id, Place::Run);
            if !run.is_listed {
                // It is listed nowhere then, and becomes ready.
                let bytes = id.as_bytes().as_slice();
                let fix = Fix::default()
                    .check(&[b"HGET", b"run", bytes], &run.raw)
                    .write(&[b"HDEL", b"run", bytes])
                    .write(&[b"SREM", b"cancel", bytes]);
                self.job(*id, "runs under a claim that does not list it", Some(fix));
            }
        }
        for (token, holding) in &self.dump.holdings {
            self.claim(token, holding);
        }
        for id in self.dump.cancel.iter().filter(|id| !self.dump.run.contains_key(*id)) {
            let bytes = id.as_bytes().as_slice();
            let fix = Fix::default().absent("run", bytes);
            let fix = fix.write(&[b"SREM", b"cancel", bytes]);
            self.job(*id, "has a cancel request but does not run", Some(fix));
        }
    }

    fn claim(&mut self, token: &[u8], claim: &Holding) {
        let Holding { raw, has_lease, held } = claim;
        let left = claim.left();
        if *held > 0 && left == Some(*held) && *has_lease {
            return;
        }
        if raw.is_empty() && !has_lease {
            return; // it ended while it was looked for
        }
        let fix = match left {
            Some(_) if *held > 0 => {
                let mut right = raw.clone();
                let count = u16::try_from(*held).unwrap_or(u16::MAX).to_be_bytes();
                right[15..17].copy_from_slice(&count);
                let until = (self.dump.now_ms + LEASE_MS).to_string();
                Fix::default()
                    .check(&[b"HGET", b"claims", token], raw)
                    .write(&[b"HSET", b"claims", token, &right])
                    .write(&[b"ZADD", b"leases", b"NX", until.as_bytes(), token])
            }
            Some(_) => Fix::default()
                .check(&[b"HGET", b"claims", token], raw)
                .write(&[b"HDEL", b"claims", token])
                .write(&[b"ZREM", b"leases", token]),
            None if !raw.is_empty() => Fix::default()
                .check(&[b"HGET", b"claims", token], raw)
                .write(&[b"HDEL", b"claims", token]),
            None => Fix::default().absent("claims", token).write(&[b"ZREM", b"leases", token]),
        };
        let whole = left.is_some() && *has_lease;
        let left = left.unwrap_or(0);
        let what =
            format!("a claim holds {held} jobs, counts {left}, and has lease and list: {whole}");
        self.store(what, Some(fix));
    }
}
