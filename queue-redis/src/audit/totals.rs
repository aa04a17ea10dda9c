//! Counters, lane indexes and the ends of shelves of a large namespace.
//!
//! How many jobs are ready is compared exactly: lanes know their lengths, so one step has both
//! sides. So it is for every counter if its jobs are few, and for the sum of all counters of
//! running, waiting, finished and quarantined jobs. Which of many counters is wrong, if
//! their jobs are many, is told by two passes over all jobs with a look at the counters between
//! them: if both have found the very same jobs in the same condition, and they are as many as
//! there were between the passes, then they are those that the counters should have counted then.
//! On a store in which something always moves, no two passes find the same; then a wrong sum is
//! named and not put right, and of counters with a right sum nothing more is known.

use std::collections::{BTreeMap, BTreeSet};

use queue_core::Error;
use redis::Value;

use super::dump::{Dump, Extent, Other, decimal, flat, numbers, text};
use super::finished::is_shelf;
use super::fix::Findings;
use super::lanes::pair_of;
use super::limit_pages;
use super::look::{Looker, PAGE};
use super::pages::Census;
use super::rules::{Auditor, Finding};
use crate::reply::{self, Items};
use crate::scripts;

/// How often jobs are counted again.
const CENSUSES_MAX: usize = 2;
/// A shelf with more entries is not counted in one step.
const ENTRIES_MAX: &[u8] = b"12000";
const PAIRS_A_CALL: usize = 20;
const SHELVES_A_CALL: usize = 1;

/// The indexes, and the states that are counted by them.
const CLASSES: [(&str, &[&str]); 4] = [
    ("run", &["running"]),
    ("due", &["scheduled", "retrying"]),
    ("fin", &["completed", "dead", "cancelled"]),
    ("bad", &["quarantined"]),
];

fn is_counted_by(states: &[&str], field: &str) -> bool {
    let state = field.rsplit('/').next().filter(|_| field.contains('/'));
    state.is_some_and(|state| states.contains(&state))
}

/// What there is besides jobs.
pub(super) struct Scene {
    pairs: BTreeSet<String>,
    lanes: BTreeSet<String>,
    shelves: BTreeSet<String>,
    /// Limit keys that running jobs hold.
    held: BTreeSet<String>,
    /// Names of the keys that note which lanes wait.
    waits: BTreeSet<String>,
    /// Keys of no kind that there is.
    strange: Vec<String>,
}

impl Scene {
    pub(super) fn of(names: &BTreeSet<&str>, pairs: BTreeSet<String>) -> Self {
        let mut scene = Self {
            pairs,
            lanes: BTreeSet::new(),
            shelves: BTreeSet::new(),
            held: BTreeSet::new(),
            waits: BTreeSet::new(),
            strange: Vec::new(),
        };
        for name in names {
            match name.split_once(':') {
                Some(("lanes" | "parked", pair)) => drop(scene.pairs.insert(pair.to_owned())),
                Some(("lane" | "gone", lane)) => {
                    scene.lanes.insert(lane.to_owned());
                    scene.pairs.insert(pair_of(lane).to_owned());
                }
                Some(("hold", key)) => drop(scene.held.insert(key.to_owned())),
                Some(("waits", _)) => drop(scene.waits.insert((*name).to_owned())),
                Some(("starts", _)) => {}
                None if ["workers", "alive"].contains(name) => {}
                _ if is_shelf(name) => drop(scene.shelves.insert((*name).to_owned())),
                _ => scene.strange.push((*name).to_owned()),
            }
        }
        scene
    }
}

/// Counters by name, as they are stored.
pub(super) type Counters = BTreeMap<String, Vec<u8>>;

pub(super) async fn counters(looker: Looker<'_>) -> Result<Counters, Error> {
    Ok(Sums::read(looker, &BTreeSet::new()).await?.counts)
}

fn known(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// What one step has found of counters and of the sizes of what they count.
struct Sums {
    /// As many as there are [`CLASSES`].
    sizes: [u64; 4],
    /// How many of these should be counted, if that is known.
    counted: [Option<u64>; 4],
    stale: u64,
    stale_noted: Vec<u8>,
    counts: Counters,
}

impl Sums {
    async fn read(looker: Looker<'_>, lanes: &BTreeSet<String>) -> Result<Self, Error> {
        let mut words: Vec<&[u8]> = vec![b"sums"];
        words.extend(lanes.iter().map(|lane| lane.as_bytes()));
        let mut items = Items::of(looker.script(&scripts::totals, &words).await?)?;
        let sizes = [items.count()?, items.count()?, items.count()?, items.count()?];
        let (ended, bad) = (known(&items.value()?), known(&items.value()?));
        let counted = [Some(sizes[0]), Some(sizes[1]), ended, bad];
        let (stale, stale_noted) = (items.count()?, items.bytes()?);
        let counts = flat(items.value()?)?;
        let by_name = |(field, count): (Vec<u8>, Vec<u8>)| (text(&field), count);
        let counts = counts.into_iter().map(by_name).collect();
        Ok(Self { sizes, counted, stale, stale_noted, counts })
    }

    /// The sum of the counters of some states.
    fn of(&self, states: &[&str]) -> u64 {
        let counted = self.counts.iter().filter(|(field, _)| is_counted_by(states, field));
        counted.filter_map(|(_, count)| decimal(count)).fold(0, u64::saturating_add)
    }
}

/// Looks at everything that this module is about; answers the lanes that there are.
pub(super) async fn look(
    looker: Looker<'_>,
    scene: &Scene,
    before: (Counters, Census),
    findings: &mut Findings<'_>,
) -> Result<BTreeSet<String>, Error> {
    let nothing = Dump { extent: Extent::Jobs, ..Dump::default() };
    let mut auditor = Auditor::of(&nothing);
    let sums = Sums::read(looker, &scene.lanes).await?;
    auditor.stale(sums.stale, &sums.stale_noted);
    limit_pages::live_of_queues(&sums.counts, &mut auditor);
    for name in &scene.strange {
        let tokens = tokens_in(looker, name).await?;
        if tokens != Some(0) {
            auditor.name(name, tokens);
        }
    }
    let mut shelves = scene.shelves.clone();
    shelves.extend(sums.counts.keys().filter(|name| is_shelf(name)).cloned());
    look_at_shelves(looker, &shelves, &mut auditor).await?;
    findings.add(auditor.found).await?;
    let mut pairs = scene.pairs.clone();
    pairs.extend(sums.counts.keys().filter_map(|field| Some(field.rsplit_once('/')?.0.to_owned())));
    let mut lanes = look_at_pairs(looker, &pairs, findings).await?;
    let is_odd = |lane: &&String| lane.rsplit_once('/').is_none_or(|(_, level)| !is_level(level));
    lanes.extend(scene.lanes.iter().filter(is_odd).cloned());
    let mut found = Vec::new();
    let known = limit_pages::Known { lanes: &scene.lanes, held: &scene.held, waits: &scene.waits };
    limit_pages::findings(looker, &known, &pairs, &mut lanes, &mut found).await?;
    limit_pages::live_of_keys(looker, &before.1.live, &mut found).await?;
    findings.add(found).await?;
    count(looker, scene, before, sums, findings).await?;
    Ok(lanes)
}

fn is_level(text: &str) -> bool {
    matches!(text.as_bytes(), [b'0'..=b'9'])
}

/// How many elements a list has; `None` if the key is no list.
async fn tokens_in(looker: Looker<'_>, name: &str) -> Result<Option<u64>, Error> {
    let mut cmd = redis::cmd("TYPE");
    cmd.arg(format!("{}{name}", looker.keys.prefix()));
    match text(&reply::bytes(looker.plain(cmd).await?)?).as_str() {
        "none" => Ok(Some(0)),
        "list" => {
            let mut cmd = redis::cmd("LLEN");
            cmd.arg(format!("{}{name}", looker.keys.prefix()));
            Ok(match looker.plain(cmd).await {
                Ok(Value::Int(length)) => u64::try_from(length).ok(),
                _ => None,
            })
        }
        _ => Ok(None),
    }
}

async fn look_at_shelves(
    looker: Looker<'_>,
    shelves: &BTreeSet<String>,
    auditor: &mut Auditor<'_>,
) -> Result<(), Error> {
    let shelves: Vec<&String> = shelves.iter().collect();
    for some in shelves.chunks(SHELVES_A_CALL) {
        let mut words: Vec<&[u8]> = vec![b"shelves", ENTRIES_MAX];
        words.extend(some.iter().map(|shelf| shelf.as_bytes()));
        let replies = reply::array(looker.script(&scripts::totals, &words).await?)?;
        for (shelf, answer) in some.iter().zip(replies) {
            let mut items = Items::of(answer)?;
            let kind = text(&items.bytes()?);
            let (soonest, noted) = (decimal(&items.bytes()?), decimal(&items.bytes()?));
            if kind != "zset" && kind != "none" {
                auditor.wrong_type(shelf, "a sorted set");
            }
            auditor.age(shelf, soonest, noted);
            let records = items.value()?;
            let counted = items.bytes()?;
            if let Value::Int(records) = records
                && !shelf.starts_with("held:")
            {
                let counted = Some(counted.as_slice()).filter(|counted| !counted.is_empty());
                auditor.counter(shelf, u64::try_from(records).unwrap_or(0), counted);
            }
        }
    }
    Ok(())
}

/// Lanes, their indexes, and how many jobs are ready in them.
async fn look_at_pairs(
    looker: Looker<'_>,
    pairs: &BTreeSet<String>,
    findings: &mut Findings<'_>,
) -> Result<BTreeSet<String>, Error> {
    let mut all = BTreeSet::new();
    let pairs: Vec<&String> = pairs.iter().collect();
    for some in pairs.chunks(PAIRS_A_CALL) {
        let mut words: Vec<&[u8]> = vec![b"pairs"];
        words.extend(some.iter().map(|pair| pair.as_bytes()));
        let replies = reply::array(looker.script(&scripts::totals, &words).await?)?;
        for (pair, answer) in some.iter().zip(replies) {
            look_at_pair(pair, answer, &mut all, findings).await?;
        }
    }
    Ok(all)
}

async fn look_at_pair(
    pair: &str,
    answer: Value,
    all: &mut BTreeSet<String>,
    findings: &mut Findings<'_>,
) -> Result<(), Error> {
    let mut items = Items::of(answer)?;
    let (live, counted) = (items.value()?, items.bytes()?);
    let (kind, content) = (text(&items.bytes()?), numbers(items.value()?)?);
    let mut dump = Dump { extent: Extent::Jobs, ..Dump::default() };
    match kind.as_str() {
        "none" => {}
        "zset" => drop(dump.others.insert(format!("lanes:{pair}"), Other::Sorted(content))),
        _ => drop(dump.others.insert(format!("lanes:{pair}"), Other::Foreign)),
    }
    let mut auditor = Auditor::of(&dump);
    let mut listed = BTreeSet::new();
    let mut lanes = Items::of(items.value()?)?;
    while let Ok(level) = lanes.bytes() {
        let lane = format!("{pair}/{}", text(&level));
        let kind = text(&lanes.bytes()?);
        let gone_kind = text(&lanes.bytes()?);
        match kind.as_str() {
            "none" => auditor.gone_without_lane(&lane),
            "list" => drop(listed.insert(lane.clone())),
            _ => {
                listed.insert(lane.clone());
                auditor.wrong_type(&format!("lane:{lane}"), "a list");
            }
        }
        if gone_kind != "none" && gone_kind != "hash" {
            auditor.wrong_type(&format!("gone:{lane}"), "a hash");
        }
    }
    auditor.lane_indexes(&listed);
    if let Value::Int(live) = live {
        let counted = Some(counted.as_slice()).filter(|counted| !counted.is_empty());
        auditor.counter(&format!("{pair}/ready"), u64::try_from(live).unwrap_or(0), counted);
    }
    findings.add(auditor.found).await?;
    all.append(&mut listed);
    Ok(())
}

/// The counters of jobs that are not ready.
async fn count(
    looker: Looker<'_>,
    scene: &Scene,
    (counters, mut before): (Counters, Census),
    mut sums: Sums,
    findings: &mut Findings<'_>,
) -> Result<(), Error> {
    let mut open: Vec<usize> = Vec::new();
    for (class, (index, states)) in CLASSES.iter().enumerate() {
        if sums.sizes[class] > 2 * PAGE {
            let is_as_noted = |field: &String| {
                let counted = before.counts.get(field).map_or(0, |count| count.0);
                sums.counts.get(field).map_or(Some(0), |noted| decimal(noted)) == Some(counted)
            };
            let mut fields = sums.counts.keys().chain(before.counts.keys());
            if !fields.all(|field| !is_counted_by(states, field) || is_as_noted(field)) {
                open.push(class);
            }
        } else if let Some(dump) = looker.members(index).await? {
            let counted = super::rules::check(&dump);
            let mut expected: BTreeMap<String, u64> = BTreeMap::new();
            for (_, field) in counted.counted().chain(counted.quarantined()) {
                *expected.entry(field).or_default() += 1;
            }
            let mut auditor = Auditor::of(&dump);
            auditor.compare(&expected, &dump.count, |field| is_counted_by(states, field));
            findings.add(auditor.found).await?;
        }
    }
    let mut earlier = counters;
    for _ in 0..CENSUSES_MAX {
        // What has moved while all jobs were counted would move again.
        if open.iter().all(|class| has_moved(*class, &earlier, &sums.counts)) {
            break;
        }
        let after = Census::take(looker).await?;
        let mut still_open = Vec::new();
        for class in open {
            match compare(class, &before, &sums, &after) {
                Some(found) => findings.add(found).await?,
                None => still_open.push(class),
            }
        }
        open = still_open;
        before = after;
        let now = Sums::read(looker, &scene.lanes).await?;
        earlier = std::mem::replace(&mut sums, now).counts;
    }
    let nothing = Dump::default();
    let mut auditor = Auditor::of(&nothing);
    for class in open {
        let (index, states) = CLASSES[class];
        let noted = sums.of(states);
        match sums.counted[class].filter(|size| *size != noted) {
            Some(size) => {
                let what =
                    format!("the counters of {states:?} sum up to {noted}, {index} has {size}");
                auditor.store(what, None);
            }
            None => tracing::warn!(
                event = "audit_incomplete",
                ?states,
                "counters could not be compared one by one while the store is at work"
            ),
        }
    }
    findings.add(auditor.found).await?;
    Ok(())
}

fn has_moved(class: usize, earlier: &Counters, counters: &Counters) -> bool {
    let of_class = |counters: &Counters| -> Counters {
        let fields = counters.iter().filter(|(field, _)| is_counted_by(CLASSES[class].1, field));
        fields.map(|(field, count)| (field.clone(), count.clone())).collect()
    };
    of_class(earlier) != of_class(counters)
}

/// Compares the counters of a class if two passes around `sums` have found the same jobs.
fn compare(class: usize, before: &Census, sums: &Sums, after: &Census) -> Option<Vec<Finding>> {
    let states = CLASSES[class].1;
    let of_class = |census: &Census| -> BTreeMap<String, (u64, u64)> {
        let counts = census.counts.iter().filter(|(field, _)| is_counted_by(states, field));
        counts.map(|(field, count)| (field.clone(), *count)).collect()
    };
    let counts = of_class(before);
    let members = before.members[class];
    let is_same = counts == of_class(after) && members == after.members[class];
    if !is_same || members.0 != sums.sizes[class] {
        return None;
    }
    let expected = counts.into_iter().map(|(field, count)| (field, count.0)).collect();
    let nothing = Dump::default();
    let mut auditor = Auditor::of(&nothing);
    auditor.compare(&expected, &sums.counts, |field| is_counted_by(states, field));
    Some(auditor.found)
}
