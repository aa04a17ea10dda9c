//! The calls that wait for the writer, in two lines: those of bulks let others go first.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::call::Pending;

/// The most calls of one group.
pub(super) const CALLS_MAX: usize = 256;
/// A group takes no more calls once they touch so many jobs together: the first of them waits for
/// the last.
pub(super) const JOBS_MAX: usize = 4096;

pub(super) type Calls = Vec<Box<dyn Pending>>;

pub(super) struct Line {
    arriving: mpsc::Receiver<Box<dyn Pending>>,
    first: VecDeque<Box<dyn Pending>>,
    bulk: VecDeque<Box<dyn Pending>>,
}

impl Line {
    pub(super) fn new(arriving: mpsc::Receiver<Box<dyn Pending>>) -> Self {
        Self { arriving, first: VecDeque::new(), bulk: VecDeque::new() }
    }

    /// The calls of the next group, of which at most one is of a bulk: it has its turn whoever else waits.
    /// Waits for the first call; `None` once nobody can make any.
    pub(super) fn next_group(&mut self) -> Option<Calls> {
        loop {
            if self.first.is_empty() && self.bulk.is_empty() {
                let call = self.arriving.blocking_recv()?;
                self.stand(call);
            }
            self.look();
            let (mut calls, mut jobs) = (Calls::new(), 0);
            while calls.len() < CALLS_MAX - 1 && jobs < JOBS_MAX {
                let Some(call) = self.first.pop_front() else { break };
                jobs += call.jobs();
                calls.push(call);
            }
            calls.extend(self.next_of_bulk(|_| true));
            if !calls.is_empty() {
                return Some(calls);
            }
        }
    }

    /// The next call of a bulk for a group of such calls, which has begun, if nobody else waits.
    pub(super) fn more(&mut self, group: &Calls) -> Option<Box<dyn Pending>> {
        self.look();
        let jobs: usize = group.iter().map(|call| call.jobs()).sum();
        let has_room = group.len() < CALLS_MAX && jobs < JOBS_MAX;
        // Others come first.
        let is_of_bulk = group.first().is_some_and(|call| call.is_bulk());
        if !(has_room && is_of_bulk && self.first.is_empty()) {
            return None;
        }
        // Whether the commit is synced has been settled.
        let is_synced = group.iter().any(|call| call.is_synced());
        self.next_of_bulk(|next| is_synced || !next.is_synced())
    }

    /// The next call of a bulk whose caller has not given up: who has must not find its jobs later.
    fn next_of_bulk(
        &mut self,
        may_go: impl FnOnce(&dyn Pending) -> bool,
    ) -> Option<Box<dyn Pending>> {
        while self.bulk.front()?.is_abandoned() {
            self.bulk.pop_front();
        }
        if may_go(self.bulk.front()?.as_ref()) { self.bulk.pop_front() } else { None }
    }

    /// Lets those who have arrived stand in line: of bulks are not many there.
    fn look(&mut self) {
        while self.first.len() < CALLS_MAX
            && let Ok(call) = self.arriving.try_recv()
        {
            self.stand(call);
        }
    }

    fn stand(&mut self, call: Box<dyn Pending>) {
        let line = if call.is_bulk() { &mut self.bulk } else { &mut self.first };
        line.push_back(call);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{OwnedSemaphorePermit, Semaphore};

    use super::super::call::Call;
    use super::*;

    /// A line, and how calls of so many jobs come to stand in it; `true` for those of bulks.
    fn line() -> (Line, impl Fn(usize, bool)) {
        let (calls, arriving) = mpsc::channel::<Box<dyn Pending>>(1024);
        let arrive = move |jobs, is_bulk| {
            let (call, answer) = Call::new(jobs, |_| Ok(()));
            std::mem::forget(answer); // its caller waits
            let call = if is_bulk { call.of_bulk(place()) } else { call };
            calls.try_send(call).ok().unwrap();
        };
        (Line::new(arriving), arrive)
    }

    fn place() -> OwnedSemaphorePermit {
        Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
    }

    fn jobs(calls: &Calls) -> Vec<usize> {
        calls.iter().map(|call| call.jobs()).collect()
    }

    #[test]
    fn a_group_takes_what_waits_up_to_its_bounds() {
        let (mut line, arrive) = line();
        (0..300).for_each(|_| arrive(1, false));
        let most = [CALLS_MAX - 1, 300 - (CALLS_MAX - 1)];
        assert_eq!(most.map(|_| line.next_group().unwrap().len()), most);
        (0..3).for_each(|_| arrive(JOBS_MAX / 2, false));
        assert_eq!([2, 1].map(|_| line.next_group().unwrap().len()), [2, 1]);
        drop(arrive);
        assert!(line.next_group().is_none());
    }

    #[test]
    fn bulks_let_others_go_first_and_have_their_turn() {
        let (mut line, arrive) = line();
        for jobs in [500, 501, 502, 503] {
            arrive(jobs, true);
        }
        arrive(1, false);
        arrive(2, false);
        let group = line.next_group().unwrap();
        assert_eq!(jobs(&group), [1, 2, 500]);
        // Others are not kept waiting for more of it.
        assert!(line.more(&group).is_none());
        let mut group = line.next_group().unwrap();
        group.extend(line.more(&group));
        assert_eq!(jobs(&group), [501, 502]);
        arrive(3, false);
        assert!(line.more(&group).is_none());
        assert_eq!(jobs(&line.next_group().unwrap()), [3, 503]);
        // However many others there are.
        (0..4).for_each(|_| arrive(JOBS_MAX, false));
        arrive(500, true);
        assert_eq!(jobs(&line.next_group().unwrap()), [JOBS_MAX, 500]);
        // A group without one is not made longer.
        let group = line.next_group().unwrap();
        arrive(500, true);
        assert!(line.more(&group).is_none());
    }

    #[test]
    fn bulks_fill_a_group_up_to_its_bounds() {
        let (mut line, arrive) = line();
        (0..10).for_each(|_| arrive(500, true));
        let mut group = line.next_group().unwrap();
        while let Some(call) = line.more(&group) {
            group.push(call);
        }
        assert_eq!(jobs(&group), [500; JOBS_MAX.div_ceil(500)]);
    }

    #[test]
    fn a_synced_call_does_not_join_a_group_that_is_not() {
        let (calls, arriving) = mpsc::channel::<Box<dyn Pending>>(4);
        let mut line = Line::new(arriving);
        for is_synced in [false, true, false] {
            let (call, answer) = Call::new(1, |_| Ok(()));
            std::mem::forget(answer);
            let call = call.of_bulk(place());
            calls.try_send(if is_synced { call.synced() } else { call }).ok().unwrap();
        }
        let group = line.next_group().unwrap();
        assert!(line.more(&group).is_none());
        let group = line.next_group().unwrap();
        assert!(line.more(&group).is_some());
    }

    #[test]
    fn a_bulk_that_was_given_up_goes_no_further() {
        let (calls, arriving) = mpsc::channel::<Box<dyn Pending>>(4);
        let mut line = Line::new(arriving);
        let (mut answers, mut waits) = (Vec::new(), Vec::new());
        for jobs in 1..=3 {
            let (call, answer) = Call::new(jobs, |_| Ok(()));
            calls.try_send(call.of_bulk(place())).ok().unwrap();
            if jobs == 2 { waits.push(answer) } else { answers.push(answer) }
        }
        drop(answers);
        let group = line.next_group().unwrap();
        assert_eq!(jobs(&group), [2]);
        assert!(line.more(&group).is_none());
        drop(calls);
        assert!(line.next_group().is_none());
    }

    #[test]
    fn others_are_seen_behind_any_number_of_chunks() {
        let (mut line, arrive) = line();
        (0..1000).for_each(|_| arrive(500, true));
        arrive(1, false);
        assert_eq!(jobs(&line.next_group().unwrap()), [1, 500]);
    }
}
