//! What two databases hold, and whether it is the same.

use std::collections::{BTreeMap, BTreeSet};

use redis::Connection;

/// Everything in a database as one text: per key a list of its name, type, the milliseconds that
/// it has left and its items. A list is its length, and per element its bytes' number and they.
const DUMP: &str = "
local function in_pairs(flat)
  local items = {}
  for i = 1, #flat, 2 do
    items[#items + 1] = struct.pack('>I4', #flat[i]) .. flat[i] .. flat[i + 1]
  end
  return items
end
local readers = {
  hash = function(key) return in_pairs(redis.call('HGETALL', key)) end,
  list = function(key) return redis.call('LRANGE', key, 0, -1) end,
  set = function(key) return redis.call('SMEMBERS', key) end,
  zset = function(key) return in_pairs(redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')) end,
  string = function(key) return { redis.call('GET', key) } end,
}
local parts = {}
local function add(item) parts[#parts + 1] = struct.pack('>I4', #item) .. item end
for _, key in ipairs(redis.call('KEYS', '*')) do
  local of = redis.call('TYPE', key).ok
  local items = readers[of](key)
  parts[#parts + 1] = struct.pack('>I4', #items + 3)
  add(key)
  add(of)
  add(string.format('%d', redis.call('PTTL', key)))
  for i = 1, #items do add(items[i]) end
end
return table.concat(parts)";

/// How far the times may be apart that keys have left.
const TTL_TOLERANCE_MS: i64 = 5000;

/// The keys that differ, and how, in the databases of a real call and of one that was whole.
pub(super) fn differences(
    real: &mut Connection,
    whole: &mut Connection,
    is_plain_claim: bool,
) -> Vec<String> {
    let (real, whole) = (dump(real), dump(whole));
    let (real, whole) = (entries(&real), entries(&whole));
    if is_plain_claim && is_parked_less(&real, &whole) {
        return Vec::new();
    }
    let mut all = Vec::new();
    for key in real.keys().chain(whole.keys().filter(|key| !real.contains_key(*key))) {
        let (a, b) = (real.get(key), whole.get(key));
        let is_same = match (a, b) {
            (Some(a), Some(b)) => a.is_like(b, key),
            _ => false,
        };
        if !is_same {
            let show = |entry: Option<&Entry<'_>>| entry.map_or("nothing".into(), Entry::show);
            all.push(format!("{key}\n  real  {}\n  whole {}", show(a), show(b)));
        }
    }
    all
}

/// What one key holds.
struct Entry<'a> {
    kind: &'a str,
    ttl_ms: i64,
    /// In order; of two parts the first one's length goes before.
    items: Vec<&'a [u8]>,
}

impl Entry<'_> {
    fn is_like(&self, other: &Self, name: &str) -> bool {
        let has_time = |entry: &Self| entry.ttl_ms >= 0;
        let is_same = self.items == other.items
            || is_shelf(name) && self.with_sorted_ids() == other.with_sorted_ids();
        is_same
            && self.kind == other.kind
            && has_time(self) == has_time(other)
            && (self.ttl_ms - other.ttl_ms).abs() <= TTL_TOLERANCE_MS
    }

    /// For shelves: each entry's score and ids, without their order.
    fn with_sorted_ids(&self) -> Vec<(&[u8], Vec<&[u8]>)> {
        let mut all: Vec<_> = self.items.iter().filter_map(|item| shelf_entry(item)).collect();
        all.sort_unstable();
        all
    }

    fn show(&self) -> String {
        let items: Vec<String> =
            self.items.iter().map(|item| item.escape_ascii().to_string()).collect();
        format!("{} for {} ms: [{}]", self.kind, self.ttl_ms, items.join(", "))
    }
}

/// Allowed difference: the ids that one call puts on a shelf with one expiry are one entry of it,
/// in whatever order. They go in any order, too.
fn is_shelf(name: &str) -> bool {
    name.contains(":done:")
}

/// An entry of a shelf: its score and its ids, sorted.
fn shelf_entry(item: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let (length, rest) = item.split_first_chunk::<4>()?;
    let (ids, score) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    // Behind the ids there may be a tag (lua/lib/shelf.lua): its last byte is its length.
    let tag = if ids.len() % 16 == 0 { 0 } else { usize::from(*ids.last()?) };
    let (ids, tag) = ids.split_at_checked(ids.len().checked_sub(tag)?)?;
    let mut ids: Vec<&[u8]> = ids.chunks(16).chain([tag]).collect();
    ids.sort_unstable();
    Some((score, ids))
}

/// Allowed difference: a plain claim leaves lanes that it does not come to where they are. The whole
/// one parks those of them that have no room, and so may look at more of them.
fn is_parked_less(real: &BTreeMap<&str, Entry<'_>>, whole: &BTreeMap<&str, Entry<'_>>) -> bool {
    let parked = |entries: &BTreeMap<&str, Entry<'_>>| -> BTreeSet<Vec<u8>> {
        let of_keys = entries.iter().filter(|(key, _)| key.contains(":waits:"));
        of_keys
            .flat_map(|(key, entry)| {
                entry.items.iter().map(move |item| [key.as_bytes(), item].concat())
            })
            .collect()
    };
    parked(real).is_subset(&parked(whole))
        && with_nothing_parked(real) == with_nothing_parked(whole)
}

/// What keys hold if all lanes were in their index and nobody waited for a limit key, nor for its time.
fn with_nothing_parked(entries: &BTreeMap<&str, Entry<'_>>) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut all = BTreeMap::<String, Vec<Vec<u8>>>::new();
    for (key, entry) in entries {
        if key.contains(":waits:") || key.ends_with(":reopen") {
            continue;
        }
        let items = entry.items.iter();
        let items: Vec<Vec<u8>> = match key.rsplit_once(":limited") {
            Some((_, "")) => items.filter_map(|item| without_waits(item)).collect(),
            _ if key.contains(":lanes:") => {
                items.filter(|item| item.get(4) != Some(&b'@')).map(|item| item.to_vec()).collect()
            }
            _ => items.map(|item| item.to_vec()).collect(),
        };
        if !items.is_empty() {
            let known = all.entry(key.replace(":parked:", ":lanes:")).or_default();
            known.extend(items);
            if entry.kind != "list" {
                known.sort_unstable();
            }
        }
    }
    all
}

/// What is remembered of a limit key (`lua/lib/limits.lua`), but who waits for it; nothing if that
/// is all.
fn without_waits(item: &[u8]) -> Option<Vec<u8>> {
    let (length, rest) = item.split_first_chunk::<4>()?;
    let state_at = 4 + u32::from_be_bytes(*length) as usize;
    let state = rest.get(state_at - 4..)?;
    let flags = *state.get(1)?;
    let has = |flag: u8| usize::from(flags & flag == flag);
    let failures_at = 16 + 12 * has(1) + 16 * has(3);
    let failures = usize::from(*state.get(failures_at)?);
    let end = failures_at + 1 + 6 * failures + 14 * has(4);
    let is_nothing = state.get(1..end)?.iter().all(|byte| *byte == 0);
    (!is_nothing).then(|| item[..state_at + end].to_vec())
}

fn dump(database: &mut Connection) -> Vec<u8> {
    redis::cmd("EVAL").arg(DUMP).arg(0).query(database).expect("a look")
}

fn entries(dump: &[u8]) -> BTreeMap<&str, Entry<'_>> {
    let mut rest = dump;
    let mut all = BTreeMap::new();
    while let Some(count) = number(&mut rest) {
        let mut parts = Vec::with_capacity(count);
        for _ in 0..count {
            let length = number(&mut rest).expect("a length");
            let (part, tail) = rest.split_at(length);
            rest = tail;
            parts.push(part);
        }
        let mut items = parts.split_off(3);
        let text = |nth: usize| std::str::from_utf8(parts[nth]).expect("a text");
        let (name, kind, ttl_ms) = (text(0), text(1), text(2).parse().expect("a number"));
        if kind != "list" {
            items.sort_unstable();
        }
        all.insert(name, Entry { kind, ttl_ms, items });
    }
    all
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let (bytes, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    usize::try_from(u32::from_be_bytes(*bytes)).ok()
}
