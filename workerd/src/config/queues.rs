//! `queues = ["critical", "default"]` or `queues = [{ name = "default", weight = 3 }, …]`.

use queue::QueueName;

use super::raw::{Found, Item, Place, Source, Table};
use super::value;

/// Which queues are served, and which first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Queues {
    /// The first one first, always.
    Strict(Vec<QueueName>),
    /// Each first in proportion to its weight.
    Weighted(Vec<(QueueName, u32)>),
}

impl Default for Queues {
    fn default() -> Self {
        Self::Strict(vec![QueueName::default()])
    }
}

const FORM: &str = "a list of names such as [\"critical\", \"default\"], or of weights such as \
                    [{ name = \"default\", weight = 3 }]";

const WEIGHT_MAX: usize = 1000;

impl Queues {
    pub(super) fn read(table: &mut Table<'_, '_>) -> Self {
        let source = table.source();
        let Some(Found { value: items, place }) = table.list("queues", FORM) else {
            return Self::default();
        };
        if items.is_empty() {
            source.wrong(&place, format!("there is nothing to take jobs from; write {FORM}"));
        }
        let entries: Vec<_> = items.iter().filter_map(|item| entry(source, item)).collect();
        let with_weight = entries.iter().filter(|(_, weight)| weight.is_some()).count();
        if with_weight != 0 && with_weight != entries.len() {
            source.wrong(
                &place,
                "some queues have a weight and some have none; give one to all, \
                                  or to none for a strict order",
            );
        }
        let mut unique: Vec<(QueueName, Option<u32>)> = Vec::new();
        for (name, weight) in entries {
            match unique.iter().find(|(known, _)| *known == name) {
                // A queue that is named twice is one queue.
                Some((_, known)) if *known == weight => {}
                Some(_) => source.wrong(&place, format!("{name} has two weights; keep one")),
                None => unique.push((name, weight)),
            }
        }
        if with_weight == 0 {
            Self::Strict(unique.into_iter().map(|(name, _)| name).collect())
        } else {
            let with_weights = unique.into_iter().map(|(name, weight)| (name, weight.unwrap_or(1)));
            Self::Weighted(with_weights.collect())
        }
    }

    /// The names, in order.
    pub(crate) fn names(&self) -> Vec<QueueName> {
        match self {
            Self::Strict(names) => names.clone(),
            Self::Weighted(queues) => queues.iter().map(|(name, _)| name.clone()).collect(),
        }
    }
}

/// A name, or a name with a weight.
fn entry(source: &Source<'_>, item: &Item<'_, '_>) -> Option<(QueueName, Option<u32>)> {
    if let Some(text) = item.as_str() {
        return Some((queue_name(source, &item.place, text)?, None));
    }
    let Some(mut table) = item.as_table() else {
        source.wrong(&item.place, format!("this is not a queue; write {FORM}"));
        return None;
    };
    let name = table.string("name", "a queue's name");
    let weight = table.integer("weight", "a whole number");
    table.unsupported("max_live");
    table.finish();
    let Some(name) = name else {
        source.wrong(&item.place, format!("this queue has no name; write {FORM}"));
        return None;
    };
    let name = queue_name(source, &name.place, name.value)?;
    let weight = weight.and_then(|Found { value, place }| {
        let weight = value::count::<WEIGHT_MAX>(&value).map_err(|e| source.wrong(&place, e));
        u32::try_from(weight.ok()?).ok()
    });
    Some((name, weight))
}

fn queue_name(source: &Source<'_>, place: &Place, text: &str) -> Option<QueueName> {
    QueueName::new(text).map_err(|e| source.wrong(place, e.to_string())).ok()
}
