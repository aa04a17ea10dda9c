//! The calls that look at a namespace, each at a bounded part of it.

use std::collections::{BTreeMap, BTreeSet};

use queue_core::{Error, JobId};
use redis::Value;

use super::dump::{Dump, Extent, flat, text};
use crate::connect::Link;
use crate::keys::Keys;
use crate::reply::{self, Items};
use crate::scripts::{self, Source};
use crate::store::{self, Call, Repeat};

/// A namespace with no more items is looked at in one step.
const WHOLE_MAX: u64 = 1000;
/// About so many items make a page.
pub(super) const PAGE: u64 = 250;
/// A page of more bytes than this is followed by a smaller one.
const PAGE_MAX_BYTES: u64 = 1024 * 1024;

/// Where looks go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looker<'a> {
    pub(super) link: &'a Link,
    pub(super) keys: &'a Keys,
}

impl Looker<'_> {
    /// The keys of the namespace that have no fixed name, with the namespace's prefix.
    pub(super) async fn names(&self) -> Result<BTreeSet<String>, Error> {
        let mut names = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut cmd = redis::cmd("SCAN");
            cmd.arg(&cursor).arg("MATCH").arg(format!("{}*", self.keys.prefix()));
            cmd.arg("COUNT").arg(1000);
            let mut items = Items::of(self.plain(cmd).await?)?;
            cursor = text(&items.bytes()?);
            for name in reply::array(items.value()?)? {
                names.insert(text(&reply::bytes(name)?));
            }
            if cursor == "0" {
                names.retain(|name| !self.keys.fixed().contains(name));
                return Ok(names);
            }
        }
    }

    /// The counters of live jobs per limit key, each as it is at some time during the call.
    pub(super) async fn live(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
        let mut live = BTreeMap::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut cmd = redis::cmd("HSCAN");
            cmd.arg(self.keys.live()).arg(&cursor).arg("COUNT").arg(PAGE);
            let mut items = Items::of(self.plain(cmd).await?)?;
            cursor = text(&items.bytes()?);
            live.extend(flat(items.value()?)?);
            if cursor == "0" {
                return Ok(live);
            }
        }
    }

    pub(super) async fn plain(&self, cmd: redis::Cmd) -> Result<Value, Error> {
        store::one(self.link, Call::plain(cmd), Repeat::Freely).await
    }

    pub(super) async fn script(
        &self,
        script: &'static Source,
        words: &[&[u8]],
    ) -> Result<Value, Error> {
        let bytes = words.iter().map(|word| word.len() + 16).sum();
        let mut cmd = script.call(self.keys, words.len(), bytes);
        for word in words {
            cmd.arg(*word);
        }
        store::one(self.link, Call::script(script, cmd), Repeat::Freely).await
    }

    pub(super) async fn dump(
        &self,
        script: &'static Source,
        words: &[&[u8]],
    ) -> Result<Dump, Error> {
        let mut dump = Dump::of(self.script(script, words).await?, self.keys)?;
        dump.extent = Extent::Jobs;
        Ok(dump)
    }

    /// Everything at once, if that is not too much.
    pub(super) async fn all(&self, names: &BTreeSet<String>) -> Result<Option<Dump>, Error> {
        let most = WHOLE_MAX.to_string();
        let mut words: Vec<&[u8]> = vec![b"all", most.as_bytes()];
        // A name is an item.
        if names.len() as u64 > WHOLE_MAX {
            return Ok(None);
        }
        words.extend(names.iter().map(|name| name.as_bytes()));
        let mut dump = self.dump(&scripts::dump, &words).await?;
        dump.extent = Extent::Whole;
        Ok((dump.place != "large").then_some(dump))
    }

    /// What is known of some jobs, and which of their tickets in a lane are stale.
    pub(super) async fn jobs_in(&self, lane: &str, ids: &[JobId]) -> Result<Dump, Error> {
        let mut words: Vec<&[u8]> = vec![b"in", lane.as_bytes()];
        words.extend(ids.iter().map(|id| id.as_bytes().as_slice()));
        self.dump(&scripts::dump, &words).await
    }

    /// All members of a small index, with the counters; `None` if it has too many.
    pub(super) async fn members(&self, index: &str) -> Result<Option<Dump>, Error> {
        let most = (2 * PAGE).to_string();
        let words: [&[u8]; 3] = [b"members", index.as_bytes(), most.as_bytes()];
        let dump = self.dump(&scripts::dump, &words).await?;
        Ok((dump.place != "large").then_some(dump))
    }
}

/// The pages of an index, a shelf, or the like.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    looker: Looker<'a>,
    /// How the script is asked for them.
    how: [&'a str; 2],
    cursor: Option<String>,
    count: u64,
}

impl<'a> Pages<'a> {
    pub(super) fn of(looker: Looker<'a>, how: [&'a str; 2]) -> Self {
        // Some have large values; the first page is to tell.
        let count = match how {
            ["scan", "body" | "result" | "log" | "history" | "claims"] | ["shelf", _] => 1,
            _ => PAGE,
        };
        Self { looker, how, cursor: Some("0".to_owned()), count }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Dump>, Error> {
        let Some(cursor) = self.cursor.take() else { return Ok(None) };
        let count = self.count.to_string();
        let words = [self.how[0], self.how[1], &cursor, &count].map(str::as_bytes);
        let dump = self.looker.dump(&scripts::dump, &words).await?;
        self.cursor = Some(dump.place.clone()).filter(|cursor| cursor != "0");
        self.count = match dump.weight {
            0..=PAGE_QUARTER => (self.count * 2).min(PAGE),
            PAGE_MAX_BYTES.. => (self.count / 2).max(1),
            _ => self.count,
        };
        Ok(Some(dump))
    }
}

const PAGE_QUARTER: u64 = PAGE_MAX_BYTES / 4;
