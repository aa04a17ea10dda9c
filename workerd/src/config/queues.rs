//! `queues = ["critical", { name = "default", weight = 3 }, { name = "bulk", weight = 1 }]`.

use queue::QueueName;

use super::raw::{Found, Item, Place, Source, Table};
use super::value;

/// Which queues are served, and which first: in their order, except that neighbours with weights
/// take turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queues(pub(crate) Vec<(QueueName, Option<u32>)>);

impl Default for Queues {
    fn default() -> Self {
        Self::only(QueueName::default())
    }
}

const FORM: &str = "a list of names such as [\"critical\", \"default\"], some of them with weights \
                    such as { name = \"default\", weight = 3 }";

const WEIGHT_MAX: usize = 1000;

impl Queues {
    /// One queue.
    pub(crate) fn only(name: QueueName) -> Self {
        Self(vec![(name, None)])
    }

    pub(super) fn read(table: &mut Table<'_, '_>) -> Self {
        let source = table.source();
        let Some(Found { value: items, place }) = table.list("queues", FORM) else {
            return Self::default();
        };
        if items.is_empty() {
            source.wrong(&place, format!("there is nothing to take jobs from; write {FORM}"));
        }
        let mut unique: Vec<(QueueName, Option<u32>)> = Vec::new();
        for (name, weight) in items.iter().filter_map(|item| entry(source, item)) {
            match unique.iter().find(|(known, _)| *known == name) {
                // A queue that is named twice is one queue.
                Some((_, known)) if *known == weight => {}
                Some(_) => {
                    source.wrong(&place, format!("{name} is there twice; keep one of the two"));
                }
                None => unique.push((name, weight)),
            }
        }
        Self(unique)
    }

    /// The names, in order.
    pub(crate) fn names(&self) -> Vec<QueueName> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
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
    table.refuse("max_live", "belongs to the queue itself; write it below [queues.NAME]");
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
