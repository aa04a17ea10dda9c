//! Limit keys of a large namespace: lanes that wait, holders, and counters of live jobs.
//!
//! Where a lane stands, and what is known of the keys at which it waits, is looked at in one step; so
//! is who holds a key, and whether each holder runs.

use std::collections::{BTreeMap, BTreeSet};

use queue_core::Error;

use super::dump::{Dump, Extent, decimal};
use super::lanes::with_keys;
use super::look::{Looker, Pages};
use super::pages::Census;
use super::rules::{Auditor, Finding, live_field};
use super::totals::Counters;
use crate::scripts;

const LANES_A_CALL: usize = 100;

/// The live jobs of each queue are those of its kinds.
pub(super) fn live_of_queues(counts: &Counters, auditor: &mut Auditor<'_>) {
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (field, count) in counts {
        let queue = field.split('/').next().unwrap_or_default();
        if let Some(live) = live_field(queue, field).filter(|_| field.contains('/')) {
            *expected.entry(live).or_default() += decimal(count).unwrap_or(0);
        }
    }
    auditor.compare(&expected, counts, |field| field.starts_with("live:"));
}

/// The live jobs of each key, as far as they stay the same while all are counted again: then the
/// counter was the same all the time, too, whenever its page was read.
pub(super) async fn live_of_keys(
    looker: Looker<'_>,
    before: &BTreeMap<Vec<u8>, (u64, u64)>,
    found: &mut Vec<Finding>,
) -> Result<(), Error> {
    let noted = looker.live().await?;
    let is_as_noted = |key: &Vec<u8>| {
        let counted = before.get(key).map_or(0, |count| count.0);
        noted.get(key).map_or(Some(0), |noted| decimal(noted)) == Some(counted)
    };
    let mut keys: BTreeSet<&Vec<u8>> = before.keys().chain(noted.keys()).collect();
    keys.retain(|key| !is_as_noted(key));
    if keys.is_empty() {
        return Ok(());
    }
    let after = Census::take(looker).await?;
    keys.retain(|key| before.get(*key) == after.live.get(*key));
    let mut dump = Dump { extent: Extent::Jobs, ..Dump::default() };
    let of_keys = |all: &BTreeMap<Vec<u8>, (u64, u64)>| -> BTreeMap<Vec<u8>, u64> {
        all.iter().filter(|(key, _)| keys.contains(key)).map(|(k, c)| (k.clone(), c.0)).collect()
    };
    let expected = of_keys(before);
    let noted = noted.iter().filter(|(key, _)| keys.contains(key));
    dump.live = noted.map(|(key, count)| (key.clone(), count.clone())).collect();
    let mut auditor = Auditor::of(&dump);
    auditor.compare_live(&expected);
    found.append(&mut auditor.found);
    Ok(())
}

/// What is known by the names of the namespace's keys.
pub(super) struct Known<'a> {
    pub(super) lanes: &'a BTreeSet<String>,
    /// Limit keys that running jobs hold.
    pub(super) held: &'a BTreeSet<String>,
    /// Names of the keys that note which lanes wait.
    pub(super) waits: &'a BTreeSet<String>,
}

/// Lanes with limit keys, and all that is known of the keys; adds the names of the lanes.
pub(super) async fn findings(
    looker: Looker<'_>,
    known: &Known<'_>,
    pairs: &BTreeSet<String>,
    lanes: &mut BTreeSet<String>,
    found: &mut Vec<Finding>,
) -> Result<(), Error> {
    let mut look = |dump: &Dump, rules: fn(&mut Auditor<'_>)| {
        let mut auditor = Auditor::of(dump);
        rules(&mut auditor);
        found.append(&mut auditor.found);
        let names = dump.others.keys().filter_map(|name| name.strip_prefix("lane:"));
        lanes.extend(names.map(str::to_owned));
    };
    for pair in pairs {
        for index in [format!("lanes:{pair}"), format!("parked:{pair}")] {
            let mut pages = Pages::of(looker, ["places", &index]);
            while let Some(dump) = pages.next().await? {
                look(&dump, |auditor| auditor.places());
            }
        }
    }
    let with_keys: Vec<&String> =
        known.lanes.iter().filter(|lane| with_keys(lane).is_some()).collect();
    for some in with_keys.chunks(LANES_A_CALL) {
        let mut words: Vec<&[u8]> = vec![b"lanes"];
        words.extend(some.iter().map(|lane| lane.as_bytes()));
        look(&looker.dump(&scripts::dump, &words).await?, |auditor| auditor.places());
    }
    let waits: Vec<&String> = known.waits.iter().collect();
    for some in waits.chunks(LANES_A_CALL) {
        let mut words: Vec<&[u8]> = vec![b"types", b"zset"];
        words.extend(some.iter().map(|name| name.as_bytes()));
        look(&looker.dump(&scripts::dump, &words).await?, |auditor| auditor.waits_are_sorted());
    }
    for key in known.held {
        let mut pages = Pages::of(looker, ["holders", key]);
        while let Some(dump) = pages.next().await? {
            look(&dump, |auditor| auditor.holders());
        }
    }
    let mut pages = Pages::of(looker, ["keys", ""]);
    while let Some(dump) = pages.next().await? {
        look(&dump, |auditor| auditor.remembered());
    }
    let mut pages = Pages::of(looker, ["settings", ""]);
    while let Some(dump) = pages.next().await? {
        look(&dump, |auditor| auditor.settings_can_be_read());
    }
    Ok(())
}
