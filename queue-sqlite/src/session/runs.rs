//! Rowids of jobs, those that follow each other as one.

use queue_core::backend::PASS_MAX;

/// Rowids in an order, as runs of a first and a last one. As text, `7+2 3` are 7, 8, 9 and 3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Runs(Vec<(i64, i64)>);

impl Runs {
    /// All rowids that there are.
    pub(crate) fn all() -> Self {
        Self(vec![(i64::MIN, i64::MAX)])
    }

    /// One rowid.
    pub(crate) fn of(job: i64) -> Self {
        Self(vec![(job, job)])
    }

    /// Those of a claim, from its column; `None` if they cannot be read.
    pub(crate) fn parse(stored: &str) -> Option<Self> {
        let mut runs = Self::default();
        let mut jobs: i64 = 0;
        for run in stored.split(' ') {
            let (first, more) = run.split_once('+').unwrap_or((run, "0"));
            let (first, more): (i64, i64) = (first.parse().ok()?, more.parse().ok()?);
            jobs = jobs.checked_add(more)?.checked_add(1)?;
            if more < 0 || jobs > i64::from(PASS_MAX) {
                return None;
            }
            runs.0.push((first, first.checked_add(more)?));
        }
        runs.is_distinct().then_some(runs)
    }

    /// Whether each rowid is in it once.
    fn is_distinct(&self) -> bool {
        if self.0.is_sorted_by(|one, other| one.1 < other.0) {
            return true;
        }
        let mut runs = self.0.clone();
        runs.sort_unstable();
        runs.is_sorted_by(|one, other| one.1 < other.0)
    }

    pub(crate) fn text(&self) -> String {
        let run = |&(first, last): &(i64, i64)| match last.saturating_sub(first) {
            0 => first.to_string(),
            more => format!("{first}+{more}"),
        };
        self.0.iter().map(run).collect::<Vec<String>>().join(" ")
    }

    /// Adds a rowid at the end.
    pub(crate) fn push(&mut self, job: i64) {
        match self.0.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(job) => *last = job,
            _ => self.0.push((job, job)),
        }
    }

    /// The first and the last rowid of each run.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, i64)> {
        self.0.iter().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same rowids in their own order, in which more of them may be neighbours.
    pub(crate) fn sorted(&self) -> Self {
        let mut runs = self.0.clone();
        runs.sort_unstable();
        let mut sorted: Vec<(i64, i64)> = Vec::with_capacity(runs.len());
        for (first, last) in runs {
            match sorted.last_mut() {
                Some((_, before)) if before.checked_add(1) == Some(first) => *before = last,
                _ => sorted.push((first, last)),
            }
        }
        Self(sorted)
    }

    /// Each run with the number of rowids before it.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (i64, (i64, i64))> {
        self.iter().scan(0_i64, |before, (first, last)| {
            let number = *before;
            *before = number.saturating_add(last.saturating_sub(first)).saturating_add(1);
            Some((number, (first, last)))
        })
    }
}

impl FromIterator<i64> for Runs {
    fn from_iter<I: IntoIterator<Item = i64>>(jobs: I) -> Self {
        let mut runs = Self::default();
        jobs.into_iter().for_each(|job| runs.push(job));
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_read_as_they_were_written() {
        let runs: Runs = [7, 8, 9, 3, -1, 0, i64::MAX].into_iter().collect();
        assert_eq!(runs.text(), format!("7+2 3 -1+1 {}", i64::MAX));
        assert_eq!(Runs::parse(&runs.text()), Some(runs.clone()));
        let numbers: Vec<_> = runs.numbered().map(|(number, (first, _))| (number, first)).collect();
        assert_eq!(numbers, [(0, 7), (3, 3), (4, -1), (6, i64::MAX)]);
        let lanes: Runs = [1, 3, 5, 2, 4, 9].into_iter().collect();
        assert_eq!((lanes.text(), lanes.sorted().text()), ("1 3 5 2 4 9".into(), "1+4 9".into()));
    }

    #[test]
    fn what_is_no_list_of_a_claim_is_not_read() {
        let damaged = [
            "",
            " ",
            "7+",
            "+1",
            "7+-1",
            "7+500",
            "9223372036854775807+1",
            "1  2",
            "x",
            "1 1",
            "3+2 1+2",
        ];
        for stored in damaged {
            assert_eq!(Runs::parse(stored), None, "{stored:?}");
        }
        let most = "7+499";
        assert_eq!(Runs::parse(most).map(|runs| runs.text()).as_deref(), Some(most));
    }
}
