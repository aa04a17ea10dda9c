//! A limit as it is shown to people and programs.

use queue::{Blocked, JobId, LimitSettings, LimitStatus, LimitTarget, QUEUE_CLASS};
use serde::Serialize;

use crate::display::time;
use crate::limits::{self, name_of, of};

/// A key, or a class, of which nothing but its settings is known. Times are milliseconds since
/// 1970-01-01 UTC, and durations milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct LimitView {
    pub(super) limit: String,
    /// What is in force.
    pub(super) settings: Option<LimitSettings>,
    /// What the settings were made for: the key itself, or its class.
    pub(super) settings_of: Option<String>,
    #[serde(flatten)]
    pub(super) used: Option<Use>,
}

/// What jobs make of a key.
#[derive(Debug, Serialize)]
pub(super) struct Use {
    /// Null for a queue, whose limit is about live jobs only.
    pub(super) running: Option<u64>,
    /// The first of the running jobs.
    pub(super) holders: Vec<JobId>,
    /// Places that are taken wrongly: the store was damaged.
    pub(super) drift: u64,
    /// How many may run now.
    pub(super) allowed: Option<u32>,
    /// Scheduled, ready, running and retrying jobs that carry the key, or are in the queue.
    pub(super) live: u64,
    pub(super) blocked: Vec<BlockedView>,
}

/// Why nothing starts.
#[derive(Debug, Serialize)]
pub(super) struct BlockedView {
    reason: &'static str,
    /// When it is over by time alone; null if a job has to end for it.
    until: Option<u64>,
    /// The job that decides whether a breaker closes.
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<JobId>,
    #[serde(skip)]
    blocked: Blocked,
}

impl LimitView {
    pub(super) fn of_key(status: LimitStatus) -> Self {
        let is_queue = status.key.class() == QUEUE_CLASS;
        let (settings_of, settings) = status.settings.unzip();
        let blocked = |blocked: Blocked| BlockedView {
            reason: name_of(&blocked),
            until: blocked.over_at().map(queue::Timestamp::as_ms),
            probe: match blocked {
                Blocked::Probing { probe } => Some(probe),
                _ => None,
            },
            blocked,
        };
        let used = Use {
            running: (!is_queue).then_some(status.running),
            holders: status.holders,
            drift: status.drift,
            allowed: status.allowed,
            live: status.live,
            blocked: status.blocked.into_iter().map(blocked).collect(),
        };
        Self {
            limit: status.key.to_string(),
            settings,
            settings_of: settings_of.as_ref().map(LimitTarget::to_string),
            used: Some(used),
        }
    }

    /// A class, or a key of which only the settings matter.
    pub(super) fn of_settings(target: &LimitTarget, settings: Option<LimitSettings>) -> Self {
        let settings_of = settings.as_ref().map(|_| target.to_string());
        Self { limit: target.to_string(), settings, settings_of, used: None }
    }

    pub(super) fn running_text(&self) -> Option<String> {
        let used = self.used.as_ref()?;
        Some(of(used.running?, used.allowed.map(u64::from)))
    }

    pub(super) fn live_text(&self) -> Option<String> {
        let most = self.settings.as_ref().and_then(|settings| settings.max_live);
        Some(of(self.used.as_ref()?.live, most))
    }
}

impl BlockedView {
    /// The reason, and when it is over if time alone ends it.
    pub(super) fn short(&self) -> String {
        match self.blocked.over_at() {
            Some(until) => format!("{} until {}", self.reason, time(until)),
            None => self.reason.to_owned(),
        }
    }

    pub(super) fn to_text(&self) -> String {
        limits::blocked(&self.blocked)
    }
}
