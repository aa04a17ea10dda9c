//! Promise P4 over everything a namespace holds: every index and counter agrees with the records.
//!
//! Others work meanwhile, and no step holds them up for longer than a few milliseconds. A small
//! namespace is looked at in one step ([`rules`]); a larger one in many ([`pages`]), which judge by
//! the same rules: each look says how much it has seen ([`dump::Extent`]). See
//! `docs/adr/0008-an-audit-looks-at-one-page-after-the-other.md`.

mod claims;
mod dump;
mod finished;
mod fix;
mod idempotency;
mod lanes;
mod limit_pages;
mod limits;
mod look;
mod pages;
mod rules;
mod totals;
mod walk;

use std::collections::BTreeMap;

use queue_core::Error;
use queue_core::backend::Violation;

use crate::connect::Link;
use crate::keys::Keys;
use fix::{Findings, Name};
use look::Looker;

/// A repair may bring more to light: a job that is taken off two wrong lists is in none.
const ROUNDS_MAX: usize = 5;

/// Lists what disagrees; with `repair`, puts right what can be. Each repair is made only if what it
/// was made for is still so, while others work.
pub(crate) async fn run(link: &Link, keys: &Keys, repair: bool) -> Result<Vec<Violation>, Error> {
    let looker = Looker { link, keys };
    let mut all = BTreeMap::new();
    for _ in 0..ROUNDS_MAX {
        let (found, has_fixes) = look(looker, repair).await?;
        all.values_mut().for_each(|violation: &mut Violation| violation.repaired = true);
        all.extend(found);
        if !has_fixes {
            return Ok(all.into_values().collect());
        }
    }
    let (left, _) = look(looker, false).await?;
    all.values_mut().for_each(|violation| violation.repaired = true);
    all.extend(left);
    Ok(all.into_values().collect())
}

/// A small namespace is looked at in one step, a larger one page by page. Answers what was found,
/// and whether repairs were tried.
async fn look(
    looker: Looker<'_>,
    repair: bool,
) -> Result<(BTreeMap<Name, Violation>, bool), Error> {
    let mut findings = Findings::begin(looker, repair).await?;
    let names = looker.names().await?;
    match looker.all(&names).await? {
        Some(dump) => findings.add(rules::check(&dump).found).await?,
        None => pages::look(looker, &names, &mut findings).await?,
    }
    findings.end().await
}
