//! Idempotency keys: each leads to the job that holds it, and to no other.

use queue_core::{Hold, JobId, JobState};

use super::fix::Fix;
use super::rules::Auditor;
use crate::record::{Head, state_of};

impl Auditor<'_> {
    /// A key leads to the job that holds it, and each job that holds one is led to by it.
    pub(super) fn keys(&mut self) {
        for (key, id) in &self.dump.idem {
            let Some(head) = self.head(*id) else {
                // The key of a record that cannot be read may lead to it until somebody else
                // takes it.
                if !self.dump.jobs.contains_key(id) && self.dump.is_subject(*id) {
                    self.wrong_key(key, *id);
                }
                continue;
            };
            let on_hold = matches!(head.hold, Hold::AtLeast(_)) && self.is_completed(*id);
            if head.key != *key || !(on_hold || self.holds_key(*id, head)) {
                self.wrong_key(key, *id);
            }
        }
        for (id, head) in &self.dump.jobs {
            let Some(head) = head.as_ref().filter(|head| !head.key.is_empty()) else { continue };
            let holder = self.dump.idem.get(&head.key);
            // A job that was quarantined may have lost its key to another.
            let other = holder.and_then(|holder| {
                let read = self.head(*holder).map(|other| &other.key);
                read.or_else(|| self.dump.holders.get(holder))
            });
            let is_taken = other == Some(&head.key);
            if self.holds_key(*id, head) && holder != Some(id) && !is_taken {
                let id_bytes = id.as_bytes().as_slice();
                let fix = self.as_finished(Fix::default().present("jobs", id_bytes), *id);
                let fix = fix.write(&[b"HSETNX", b"idem", &head.key, id_bytes]);
                self.job(*id, "its idempotency key does not lead to it", Some(fix));
            }
        }
    }

    fn wrong_key(&mut self, key: &[u8], id: JobId) {
        let fix = Fix::default().check(&[b"HGET", b"idem", key], id.as_bytes().as_slice());
        let fix = self.as_finished(fix, id).write(&[b"HDEL", b"idem", key]);
        self.job(id, "an idempotency key leads to it wrongly", Some(fix));
    }

    /// Only if it has finished or not, as it has now.
    fn as_finished(&self, fix: Fix, id: JobId) -> Fix {
        let bytes = id.as_bytes().as_slice();
        match self.dump.fin.contains_key(&id) {
            true => fix.present("fin", bytes),
            false => fix.absent("fin", bytes),
        }
    }

    fn is_completed(&self, id: JobId) -> bool {
        let end = self.dump.fin.get(&id).and_then(|end| state_of(end.state));
        end == Some(JobState::Completed)
    }

    fn holds_key(&self, id: JobId, head: &Head) -> bool {
        if self.dump.bad.contains(&id) {
            return false;
        }
        match self.dump.fin.get(&id).map(|end| state_of(end.state)) {
            None => true,
            Some(Some(JobState::Completed)) => match head.hold {
                Hold::AtLeast(_) => head.hold_end_ms() > self.dump.now_ms,
                hold => hold == Hold::Kept,
            },
            Some(_) => false,
        }
    }
}
