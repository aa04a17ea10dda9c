//! `workerd config`.

use super::Common;
use crate::config::{Config, View};
use crate::exit::{Exit, Failure, Outcome};

/// # Errors
/// What is wrong with the configuration.
pub(super) fn execute(common: &Common) -> Outcome {
    let config = Config::load(common.config.as_deref(), &common.layers())?;
    let view = View::of(&config);
    let text = toml::to_string(&view).map_err(|e| Failure::new(Exit::Failed, e))?;
    common.answer(&view, || text)?;
    Ok(Exit::Done)
}
