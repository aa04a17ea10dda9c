//! What the processes wrote down: who ran when.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, bail};

/// One attempt.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) start_us: u64,
    /// When it ended, or when its process was dead for sure.
    pub(crate) end_us: u64,
    /// The store's time at which it was given out, in milliseconds. (Fences are the time in
    /// microseconds, or a little more.)
    pub(crate) claimed_ms: u64,
}

/// Reads the events; `killed` says when a process was dead.
pub(crate) fn read(log: &Path, killed: &HashMap<u32, u64>) -> anyhow::Result<Vec<Run>> {
    let text = std::fs::read_to_string(log)?;
    let mut open: HashMap<(u32, String, String), (u64, u64)> = HashMap::new();
    let mut runs = Vec::new();
    for line in text.lines() {
        let parts: Vec<&str> = line.split(' ').collect();
        let [event, process, id, at_us, fence] = parts[..] else { bail!("no event: {line:?}") };
        let (process, at_us): (u32, u64) = (process.parse()?, at_us.parse()?);
        let key = (process, id.to_owned(), fence.to_owned());
        match event {
            "start" => {
                open.insert(key, (at_us, fence.parse::<u64>()? / 1000));
            }
            _ => {
                let (start_us, claimed_ms) = open.remove(&key).context("an end without a start")?;
                runs.push(Run { id: id.to_owned(), start_us, end_us: at_us, claimed_ms });
            }
        }
    }
    for ((process, id, _), (start_us, claimed_ms)) in open {
        let end_us = *killed.get(&process).context("a run without an end in a live process")?;
        runs.push(Run { id, start_us, end_us, claimed_ms });
    }
    Ok(runs)
}

/// Calls `seen` for every span between two events with how many of these spans were open in it.
pub(crate) fn sweep(spans: &[(u64, u64)], mut seen: impl FnMut(u64, u64, i64)) {
    let mut events: Vec<(u64, i64)> = Vec::new();
    for (start, end) in spans {
        events.push((*start, 1));
        events.push((*end, -1));
    }
    // An end before a start at the same instant.
    events.sort_unstable();
    let mut open = 0;
    for pair in events.windows(2) {
        open += pair[0].1;
        seen(pair[0].0, pair[1].0, open);
    }
}

/// The most of these times that lie in one half-open window.
pub(crate) fn densest_window(times_ms: &mut [u64], window_ms: u64) -> usize {
    times_ms.sort_unstable();
    let mut first = 0;
    let mut most = 0;
    for last in 0..times_ms.len() {
        while times_ms[last] - times_ms[first] >= window_ms {
            first += 1;
        }
        most = most.max(last - first + 1);
    }
    most
}
