//! Variables of the environment that look as if they were meant for workerd.

use std::ffi::OsString;

use super::Setting;

/// What the variables that workerd reads begin with, and those that it gives to programs.
const PREFIX: &str = "WORKERD_";

/// What it gives to programs, and has itself if it is started by one.
const OF_PROGRAMS: [&str; 8] = [
    "WORKERD_JOB_ID",
    "WORKERD_KIND",
    "WORKERD_QUEUE",
    "WORKERD_ATTEMPT",
    "WORKERD_FENCE",
    "WORKERD_DEADLINE",
    "WORKERD_RESULT",
    "WORKERD_EVENTS",
];

/// The variables of this process that nobody reads, each with the known one that is the most like it.
pub(crate) fn unknown_variables() -> Vec<(String, &'static str)> {
    unknown(std::env::vars_os().map(|(name, _)| name))
}

fn unknown(names: impl Iterator<Item = OsString>) -> Vec<(String, &'static str)> {
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let unknown = names.filter(|name| {
        let known = || Setting::ALL.map(Setting::variable).into_iter().chain(OF_PROGRAMS);
        name.starts_with(PREFIX) && known().all(|known| known != name)
    });
    unknown
        .filter_map(|name| {
            let rest = &name[PREFIX.len()..];
            let known = Setting::ALL.map(Setting::variable).into_iter();
            let nearest = known.min_by_key(|known| (!known.contains(rest), edits(&name, known)))?;
            Some((name, nearest))
        })
        .collect()
}

/// How many characters have to be changed, added or left out to make one text of the other.
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut costs: Vec<usize> = (0..=other.len()).collect();
    for (row, c) in one.chars().enumerate() {
        let mut before = std::mem::replace(&mut costs[0], row + 1);
        for (column, d) in other.iter().enumerate() {
            let changed = before + usize::from(c != *d);
            before = costs[column + 1];
            costs[column + 1] = changed.min(before + 1).min(costs[column] + 1);
        }
    }
    costs.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_found_with_what_was_meant() {
        let names = ["WORKERD_URI", "WORKERD_URL", "WORKERD_FENCE", "PATH", "WORKERD_LISTEN"];
        let found = unknown(names.into_iter().map(OsString::from));
        let expected = [("WORKERD_URI", "WORKERD_URL"), ("WORKERD_LISTEN", "WORKERD_HTTP_LISTEN")];
        assert_eq!(found, expected.map(|(name, nearest)| (name.to_owned(), nearest)));
    }

    #[test]
    fn edits_are_counted() {
        for (one, other, expected) in [("", "ab", 2), ("kitten", "sitting", 3), ("a", "a", 0)] {
            assert_eq!((edits(one, other), edits(other, one)), (expected, expected));
        }
    }
}
