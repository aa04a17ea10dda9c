//! What a replica needs of its machine, and what it keeps from the programs that it runs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::executor::command::try_folder;
use crate::exit::{Exit, Failure};

/// Open files per running program: its streams, both ends of them while it is started, both ends
/// of the pipe of its events, its folder, what is in there while it is looked at, and what waits
/// for its end.
const FILES_PER_JOB: u64 = 11;
/// Open files for everything else: the store, HTTP, the runtime.
const FILES_BESIDE: u64 = 256;

/// Makes sure that programs can be started. A replica that cannot start any must not take jobs.
///
/// # Errors
/// What is missing and what to do.
pub(crate) fn prepare(config: &Config) -> Result<(), Failure> {
    if !config.executors.is_empty() {
        folders_can_be_made()?;
    }
    raise_open_files(config.worker.concurrency as u64);
    keep_to_itself();
    Ok(())
}

fn folders_can_be_made() -> Result<(), Failure> {
    try_folder().map_err(|error| {
        let place = std::env::temp_dir();
        let message =
            format!("cannot make folders and pipes for attempts in {}: {error}", place.display());
        let advice = "set TMPDIR to a folder that this user can write to";
        Failure::new(Exit::Failed, message).advice(advice)
    })
}

/// Raises the soft limit of open files as far as this concurrency needs it, and no further:
/// programs inherit it, and some go through all that they could have open.
fn raise_open_files(concurrency: u64) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = concurrency.saturating_mul(FILES_PER_JOB).saturating_add(FILES_BESIDE);
    let possible = possible_open_files(limit, wanted);
    if limit.current.is_some_and(|current| current < possible) {
        let raised = Rlimit { current: Some(possible), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(event = "open_files_not_raised", %error);
        }
    }
    if possible < wanted {
        tracing::warn!(
            event = "open_files_few",
            limit = possible,
            wanted,
            "with many jobs at once some may have to wait; raise the limit (ulimit -n, \
             LimitNOFILE) or lower worker.concurrency"
        );
    }
}

/// As many as wanted, or as many as there can be.
fn possible_open_files(limit: Rlimit, wanted: u64) -> u64 {
    let current = limit.current.unwrap_or(u64::MAX);
    wanted.min(current.max(limit.maximum.unwrap_or(u64::MAX)))
}

/// Programs run as the same user, who may read the environment and the memory of its processes,
/// and with them the store's password, unless they are marked.
#[cfg(target_os = "linux")]
fn keep_to_itself() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(event = "memory_not_protected", %error);
    }
}

#[cfg(not(target_os = "linux"))]
fn keep_to_itself() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_raised_as_far_as_needed_and_possible() {
        let limit = |current, maximum| Rlimit { current, maximum };
        for (limit, wanted, possible) in [
            (limit(Some(1024), Some(4096)), 2000, 2000),
            (limit(Some(1024), Some(4096)), 5000, 4096),
            (limit(Some(1024), None), 5000, 5000),
            (limit(Some(1024), Some(4096)), 500, 500),
            (limit(None, None), 5000, 5000),
        ] {
            assert_eq!(possible_open_files(limit, wanted), possible);
        }
    }
}
