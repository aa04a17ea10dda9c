//! How fast a program's words are read.

use std::time::{Duration, Instant};

/// How much is read as fast as it comes: as much as is kept of a stream at most.
const QUICK_BYTES: usize = 64 * 1024;

/// The shortest and the longest pause after what is read beyond that.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How many times as long as it took to take something in.
const PAUSE_FACTOR: u32 = 9;

/// Slows the reading of a stream that does not end: a program that floods it waits for its pipe, instead
/// of keeping a core busy here. A tenth of one is what each stream may take.
#[derive(Debug)]
pub(super) struct Pace {
    quick_left: usize,
    since: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { quick_left: QUICK_BYTES, since: Instant::now() }
    }

    /// Something was read, and is taken in now.
    pub(super) fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// So many bytes were taken in: waits if there were many before.
    pub(super) async fn end(&mut self, bytes: usize) {
        self.quick_left = self.quick_left.saturating_sub(bytes);
        if self.is_slow() {
            tokio::time::sleep(pause(self.since.elapsed())).await;
        }
    }

    /// Whether it is read slowly by now; large buffers then make up for the pauses.
    pub(super) const fn is_slow(&self) -> bool {
        self.quick_left == 0
    }
}

fn pause(took: Duration) -> Duration {
    took.saturating_mul(PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_longer_where_there_is_more_to_do_and_bounded() {
        assert_eq!(pause(Duration::ZERO), PAUSE_MIN);
        assert_eq!(pause(Duration::from_millis(2)), Duration::from_millis(18));
        assert_eq!(pause(Duration::MAX), PAUSE_MAX);
    }
}
