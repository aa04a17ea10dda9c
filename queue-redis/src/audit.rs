//! Promise P4 over everything a namespace holds: every index and counter agrees with the records.

mod dump;
mod rules;

use queue_core::Error;
use queue_core::backend::Violation;

use crate::connect::Link;
use crate::keys::Keys;

/// Reads the whole namespace and lists what disagrees. The keys are listed first and then read
/// in one step: a store that is written to meanwhile may show disagreements that are none.
pub(crate) async fn run(link: &Link, keys: &Keys) -> Result<Vec<Violation>, Error> {
    let dump = dump::read(link, keys).await?;
    Ok(rules::check(&dump))
}
