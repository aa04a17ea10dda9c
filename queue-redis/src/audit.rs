//! Promise P4 over everything a namespace holds: every index and counter agrees with the records.

mod claims;
mod dump;
mod finished;
mod fix;
mod lanes;
mod rules;

use queue_core::Error;
use queue_core::backend::Violation;

use crate::connect::Link;
use crate::keys::Keys;
use fix::Round;
use rules::Finding;

/// A repair may bring more to light: a job that is taken off two wrong lists is in none.
const ROUNDS_MAX: usize = 5;

/// Reads the whole namespace in one step and lists what disagrees; with `repair`, puts right what
/// can be. Each repair is made only if what it was made for is still so, while others work.
///
/// # Errors
/// [`Error::Unsupported`] for a store that is too large to be read in one step.
pub(crate) async fn run(link: &Link, keys: &Keys, repair: bool) -> Result<Vec<Violation>, Error> {
    if !repair {
        let found = rules::check(&dump::read(link, keys).await?);
        return Ok(found.into_iter().map(|finding| finding.violation).collect());
    }
    let mut round = Round::begin(link, keys).await?;
    let mut found = rules::check(&dump::read(link, keys).await?);
    let mut all: Vec<Violation> = Vec::new();
    for _ in 0..ROUNDS_MAX {
        note(&mut all, &found);
        let fixes: Vec<_> = found.into_iter().filter_map(|finding| finding.fix).collect();
        if fixes.is_empty() {
            return Ok(all);
        }
        round.make(link, keys, &fixes).await?;
        round = Round::begin(link, keys).await?;
        found = rules::check(&dump::read(link, keys).await?);
        for violation in &mut all {
            violation.repaired = !found.iter().any(|left| left.is(violation));
        }
    }
    note(&mut all, &found);
    Ok(all)
}

/// Adds what was not found before.
fn note(all: &mut Vec<Violation>, found: &[Finding]) {
    for finding in found {
        if !all.iter().any(|known| finding.is(known)) {
            all.push(finding.violation.clone());
        }
    }
}
