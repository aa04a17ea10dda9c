//! What is set for limit keys.

use std::sync::Arc;

use queue_core::{LimitKey, LimitSettings, LimitTarget};
use rusqlite::{Connection, OptionalExtension};

use super::Limits;
use crate::errors::Fault;
use crate::rows::text;

pub(crate) const SELECT_SETTING: &str = "SELECT settings FROM limit_setting WHERE target = ?1";
pub(crate) const HAS_SETTING: &str = "SELECT 1 FROM limit_setting LIMIT 1";

/// The settings in force for a key.
#[derive(Debug, Default)]
pub(crate) struct InForce {
    /// What they were made for; `None` if nothing is limited.
    pub(crate) target: Option<LimitTarget>,
    pub(crate) settings: LimitSettings,
}

impl Limits<'_> {
    /// The settings in force for a key: its own, else those of its class.
    pub(crate) fn in_force(&mut self, key: &LimitKey) -> Result<Arc<InForce>, Fault> {
        if let Some(known) = self.known.in_force.get(key) {
            return Ok(Arc::clone(known));
        }
        let mut in_force = InForce::default();
        if self.is_any_set()? {
            for target in [LimitTarget::Key(key.clone()), LimitTarget::class_of(key)] {
                if let Some(settings) = settings_of(self.conn, &target)? {
                    in_force = InForce { target: Some(target), settings };
                    break;
                }
            }
        }
        let in_force = Arc::new(in_force);
        self.known.in_force.insert(key.clone(), Arc::clone(&in_force));
        Ok(in_force)
    }

    /// How much a lane with these keys weighs among others.
    pub(crate) fn weight(&mut self, keys: &[LimitKey]) -> Result<u32, Fault> {
        let mut heaviest = 1;
        for key in keys {
            heaviest = heaviest.max(self.in_force(key)?.settings.weight());
        }
        Ok(heaviest)
    }

    /// Whether any limit is set.
    pub(crate) fn is_any_set(&mut self) -> Result<bool, Fault> {
        if let Some(known) = self.known.any_set {
            return Ok(known);
        }
        let any = self.conn.prepare_cached(HAS_SETTING)?.exists([])?;
        self.known.any_set = Some(any);
        Ok(any)
    }

    /// Settings were changed.
    pub(crate) fn forget_settings(&mut self) {
        self.known.any_set = None;
        self.known.in_force.clear();
    }
}

/// The settings of exactly this target. Those that cannot be read, which an audit finds, limit
/// nobody.
pub(crate) fn settings_of(
    conn: &Connection,
    target: &LimitTarget,
) -> Result<Option<LimitSettings>, Fault> {
    let mut select = conn.prepare_cached(SELECT_SETTING)?;
    let found = select.query_row([target.to_string()], |row| {
        Ok(text(row, 0)?.and_then(|stored| parse(stored, target)))
    });
    Ok(found.optional()?.flatten())
}

/// Stored settings, if they are legal ones of this target.
pub(crate) fn parse(stored: &str, target: &LimitTarget) -> Option<LimitSettings> {
    let settings: LimitSettings = serde_json::from_str(stored).ok()?;
    settings.validate(target).ok().map(|()| settings)
}
