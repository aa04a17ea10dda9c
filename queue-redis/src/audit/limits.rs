//! Limit keys: who holds them, who waits for them, and what is remembered of them.

use std::collections::{BTreeMap, BTreeSet};

use queue_core::{LimitKey, LimitSettings, LimitState, LimitTarget, Timestamp};

use super::dump::{Extent, Other, decimal, text};
use super::fix::Fix;

use super::rules::Auditor;
use crate::record::{unpack_settings, unpack_state};

/// Lanes that are parked at a key: their indexes and scores, by `<queue>/<kind>` and key.
type Waits = BTreeMap<(String, String), BTreeMap<Vec<u8>, u64>>;

impl Auditor<'_> {
    pub(super) fn limits(&mut self) {
        self.holders();
        if self.dump.extent != Extent::Whole {
            return;
        }
        self.settings_can_be_read();
        self.waiting_is_known();
        self.remembered();
        let limits = &self.dump.limits;
        let is_used = !(limits.settings.is_empty() && limits.states.is_empty());
        if is_used && !limits.is_noted {
            let fix = Fix::default().write(&[b"HSET", b"meta", b"limits", b"1"]);
            self.store("there are limits, and nobody looks at them", Some(fix));
        }
    }

    /// Of keys of which something is remembered.
    pub(super) fn remembered(&mut self) {
        let states = self.states();
        self.reopening(&states);
    }

    /// Whoever waits at a key learns that it has room.
    pub(super) fn waiting_is_known(&mut self) {
        let mut states = BTreeMap::new();
        for (key, raw) in &self.dump.limits.states {
            states.extend(unpack_state(raw).map(|state| (text(key), state)));
        }
        let waits = self.waits();
        for ((pair, key), lanes) in &waits {
            let head = lanes.values().min().copied().unwrap_or(0);
            if !self.is_found(&states, pair, key, head) {
                let fix = Fix::default().write(&[b"SHOW", b"", pair.as_bytes(), key.as_bytes()]);
                self.store(format!("nobody learns when {pair} has room at {key}"), Some(fix));
            }
        }
        self.shown(&waits);
    }

    /// The places of lanes with limit keys, of those that were looked at.
    pub(super) fn places(&mut self) {
        let names = self.dump.others.keys().filter_map(|name| name.strip_prefix("lane:"));
        let listed: BTreeSet<String> = names.map(str::to_owned).collect();
        self.lane_indexes(&listed);
        self.waiting_is_known();
    }

    pub(super) fn holders(&mut self) {
        for (name, other) in &self.dump.others {
            if let (Some(key), false) = (name.strip_prefix("hold:"), matches!(other, Other::Set)) {
                let fix = Fix::default().write(&[b"REHOLD", b"", key.as_bytes()]);
                let fix = fix.write(&[b"LOOK", b"", key.as_bytes()]);
                self.store(format!("{name} is not a set"), Some(fix));
            }
        }
        for (key, id) in &self.dump.unheld {
            let Some(run) = self.dump.run.get(id) else { continue };
            let (name, bytes) = (format!("hold:{key}"), id.as_bytes().as_slice());
            let fix = Fix::default().check(&[b"HGET", b"run", bytes], &run.raw);
            let fix = fix.write(&[b"SADD", name.as_bytes(), bytes]);
            self.job(*id, format!("is not among the holders of {key}"), Some(fix));
        }
        for (key, member, run) in &self.dump.overheld {
            let name = format!("hold:{key}");
            let fix = Fix::default().check(&[b"HGET", b"run", member], run);
            let fix = fix.write(&[b"SREM", name.as_bytes(), member]);
            let fix = fix.write(&[b"LOOK", b"", key.as_bytes()]);
            let what = format!("is among the holders of {key} and does not hold it");
            match crate::reply::id(member) {
                Ok(id) => self.job(id, what, Some(fix)),
                Err(_) => self.store(format!("{} bytes: {what}", member.len()), Some(fix)),
            }
        }
    }

    /// Compares the counters of live jobs per key.
    pub(super) fn compare_live(&mut self, expected: &BTreeMap<Vec<u8>, u64>) {
        let keys: BTreeSet<&Vec<u8>> = expected.keys().chain(self.dump.live.keys()).collect();
        for key in keys {
            let wanted = expected.get(key).copied().unwrap_or(0);
            let raw = self.dump.live.get(key);
            let noted = raw.and_then(|raw| decimal(raw));
            if noted.unwrap_or(0) == wanted && raw.is_none() == (wanted == 0) {
                continue;
            }
            let by = (i128::from(wanted) - i128::from(noted.unwrap_or(0))).to_string();
            let fix = match raw {
                Some(raw) if by == "0" || noted.is_none() => Fix::default()
                    .check(&[b"HGET", b"live", key], raw)
                    .write(&[b"HDEL", b"live", key]),
                _ => Fix::default().write(&[b"LIVE", b"", key, by.as_bytes()]),
            };
            let (noted, key) = (noted.unwrap_or(0), text(key));
            self.store(format!("{wanted} live jobs have the key {key}, not {noted}"), Some(fix));
        }
    }

    /// What is remembered of each key, and who waits for it.
    fn states(&mut self) -> BTreeMap<String, (LimitState, Vec<String>)> {
        let mut states = BTreeMap::new();
        for (key, raw) in &self.dump.limits.states {
            let name = text(key);
            match unpack_state(raw).filter(|_| LimitKey::new(&name).is_ok()) {
                Some(state) => drop(states.insert(name, state)),
                None => {
                    let fix = Fix::default().check(&[b"HGET", b"limited", key], raw);
                    let fix = fix.write(&[b"HDEL", b"limited", key]);
                    let what = format!("what is remembered of {name:?} cannot be read");
                    self.store(what, Some(fix));
                }
            }
        }
        states
    }

    pub(super) fn settings_can_be_read(&mut self) {
        for (target, raw) in &self.dump.limits.settings {
            let name = text(target);
            let known = LimitTarget::new(&name).ok();
            if known.and_then(|target| unpack_settings(&target, raw)).is_none() {
                // They limit nothing as they are.
                let fix = Fix::default().check(&[b"HGET", b"limits", target], raw);
                let fix = fix.write(&[b"HDEL", b"limits", target]);
                self.store(format!("the settings of {name:?} cannot be read"), Some(fix));
            }
        }
    }

    fn settings_of(&self, key: &str) -> LimitSettings {
        let Ok(key) = LimitKey::new(key) else { return LimitSettings::default() };
        let targets = [LimitTarget::Key(key.clone()), LimitTarget::class_of(&key)];
        let in_force = targets.iter().find_map(|target| {
            let name = target.to_string();
            let mut all = self.dump.limits.settings.iter();
            let (_, raw) = all.find(|(target, _)| target == name.as_bytes())?;
            unpack_settings(target, raw)
        });
        in_force.unwrap_or_default()
    }

    fn state_of_key(
        &self,
        states: &BTreeMap<String, (LimitState, Vec<String>)>,
        key: &str,
    ) -> LimitState {
        states.get(key).map(|(state, _)| state.clone()).unwrap_or_default()
    }

    /// Whether claims meet the lanes that wait at a key, now or as soon as it has room.
    fn is_found(
        &self,
        states: &BTreeMap<String, (LimitState, Vec<String>)>,
        pair: &str,
        key: &str,
        head: u64,
    ) -> bool {
        let shown = match self.dump.others.get(&format!("lanes:{pair}")) {
            Some(Other::Sorted(members)) => {
                let name = format!("@{key}");
                members.iter().find(|(member, _)| member == name.as_bytes())
            }
            _ => None,
        };
        if shown.is_some_and(|(_, score)| *score <= head) {
            return true;
        }
        let is_told = states.get(key).is_some_and(|(_, pairs)| pairs.iter().any(|p| p == pair));
        let running = self.dump.running.get(key).copied().unwrap_or(0);
        let now = Timestamp::from_ms(self.dump.now_ms);
        let state = self.state_of_key(states, key);
        let room =
            state.room(&self.settings_of(key), u32::try_from(running).unwrap_or(u32::MAX), now);
        let is_due = || {
            let mut all = self.dump.limits.reopen.iter();
            all.any(|(name, at)| name == key.as_bytes() && *at <= self.dump.now_ms)
        };
        is_told && (!room.is_open() || self.dump.limits.is_changing || is_due())
    }

    /// The lanes that are parked, each at one of its own keys; answers their names.
    pub(super) fn parked(&mut self, listed: &BTreeSet<String>) -> BTreeSet<String> {
        let waits = self.waits();
        let mut parked = BTreeSet::new();
        for (name, other) in &self.dump.others {
            let Some(pair) = name.strip_prefix("parked:") else { continue };
            let Other::Sorted(members) = other else {
                self.wrong_type(name, "a sorted set");
                continue;
            };
            for (member, score) in members {
                let index = text(member);
                let lane = format!("{pair}/{index}");
                let mut keys = index.split_once('/').map_or("", |(_, keys)| keys).split(',');
                let priority = index.split('/').next().unwrap_or_default();
                let at: Vec<_> = waits
                    .iter()
                    .filter(|((of, _), lanes)| of == pair && lanes.contains_key(member))
                    .collect();
                let is_sound = matches!(at.as_slice(), [((_, key), lanes)]
                    if keys.any(|own| own == key) && lanes.get(member) == Some(score))
                    && listed.contains(&lane)
                    && priority.parse() == Ok(score >> 48);
                if !is_sound {
                    self.place_again(pair, member, "is parked wrongly");
                }
                parked.insert(lane);
            }
        }
        for ((pair, key), lanes) in &waits {
            for index in lanes.keys() {
                let name = text(index);
                if parked.contains(&format!("{pair}/{name}")) {
                    continue;
                }
                let name = format!("waits:{pair}:{key}");
                let fix = Fix::default().write(&[b"ZREM", name.as_bytes(), index]).write(&[
                    b"PLACE",
                    b"",
                    pair.as_bytes(),
                    index,
                ]);
                self.store(format!("{name} has {:?}, which is not parked", text(index)), Some(fix));
            }
        }
        parked
    }

    pub(super) fn place_again(&mut self, pair: &str, index: &[u8], what: &str) {
        let fix = Fix::default().write(&[b"PLACE", b"", pair.as_bytes(), index]);
        self.store(format!("the lane {pair}/{} {what}", text(index)), Some(fix));
    }

    /// Lanes that wait are noted in sorted sets.
    pub(super) fn waits_are_sorted(&mut self) {
        self.waits();
    }

    fn waits(&mut self) -> Waits {
        let mut waits = Waits::new();
        let mut wrong = Vec::new();
        for (name, other) in &self.dump.others {
            let Some(place) = name.strip_prefix("waits:") else { continue };
            match (place.split_once(':'), other) {
                (Some((pair, key)), Other::Sorted(members)) => {
                    let lanes = members.iter().cloned();
                    waits.insert((pair.to_owned(), key.to_owned()), lanes.collect());
                }
                _ => wrong.push(name),
            }
        }
        for name in wrong {
            self.wrong_type(name, "a sorted set");
        }
        waits
    }

    /// Keys that claims are shown have lanes that wait.
    fn shown(&mut self, waits: &Waits) {
        for (name, other) in &self.dump.others {
            let (Some(pair), Other::Sorted(members)) = (name.strip_prefix("lanes:"), other) else {
                continue;
            };
            for (member, _) in members.iter().filter(|(member, _)| member.starts_with(b"@")) {
                let key = text(&member[1..]);
                if !waits.contains_key(&(pair.to_owned(), key.clone())) {
                    let words: [&[u8]; 4] = [b"SHOW", b"", pair.as_bytes(), &member[1..]];
                    let fix = Fix::default().write(&words);
                    self.store(format!("{name} shows {key}, where nothing waits"), Some(fix));
                }
            }
        }
    }

    /// A key that is closed by time and for which jobs wait is looked at when that is over.
    fn reopening(&mut self, states: &BTreeMap<String, (LimitState, Vec<String>)>) {
        let now = Timestamp::from_ms(self.dump.now_ms);
        for (key, (state, pairs)) in states {
            if pairs.is_empty() {
                continue;
            }
            let settings = LimitSettings { concurrency: None, ..self.settings_of(key) };
            let room = state.room(&settings, 0, now);
            let Some(at) = room.reopens_at() else { continue };
            let noted = self.dump.limits.reopen.iter().find(|(name, _)| name == key.as_bytes());
            if noted.is_none_or(|(_, noted)| *noted > at.as_ms()) && !self.dump.limits.is_changing {
                let now_ms = self.dump.now_ms.to_string();
                let fix =
                    Fix::default().write(&[b"ZADD", b"reopen", now_ms.as_bytes(), key.as_bytes()]);
                self.store(format!("nobody looks when {key} opens at {}", at.as_ms()), Some(fix));
            }
        }
        for (key, _) in &self.dump.limits.reopen {
            if LimitKey::new(text(key)).is_err() {
                let fix = Fix::default().write(&[b"ZREM", b"reopen", key]);
                self.store(format!("reopen has {:?}, which is no key", text(key)), Some(fix));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::with_keys;

    #[test]
    fn a_lane_with_keys_is_told_from_others() {
        assert_eq!(with_keys("q/k/5/a:1,b:2"), Some(("q/k", "5/a:1,b:2")));
        assert_eq!((with_keys("q/k/5"), with_keys("q")), (None, None));
    }
}
