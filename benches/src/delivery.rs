//! Whether every job ran, once, and none that nobody enqueued.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use queue::{Context, Executor, Fail, Kind, NewJob, Payload};
use tokio::sync::Notify;

/// Numbered jobs, and who has run.
#[derive(Debug, Clone)]
pub struct Delivery(Arc<Inner>, Duration);

#[derive(Debug)]
struct Inner {
    runs: Vec<AtomicU8>,
    invented: AtomicU64,
    done: AtomicU64,
    target: AtomicU64,
    reached: Notify,
}

impl Delivery {
    /// Room for the numbers below `jobs`.
    #[must_use]
    pub fn new(jobs: usize) -> Self {
        let runs = std::iter::repeat_with(AtomicU8::default).take(jobs).collect();
        let inner = Arc::new(Inner {
            runs,
            invented: AtomicU64::new(0),
            done: AtomicU64::new(0),
            target: AtomicU64::new(u64::MAX),
            reached: Notify::new(),
        });
        Self(inner, Duration::ZERO)
    }

    /// An attempt takes so long, on the average: from half of it to one and a half, by the job's number.
    #[must_use]
    pub fn lasting(self, attempt: Duration) -> Self {
        Self(self.0, attempt)
    }

    /// The job with this number; its payload has `bytes` bytes, at least eight.
    pub fn job(kind: &Kind, number: u64, bytes: usize) -> NewJob {
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(bytes.max(8), b'x');
        NewJob::new(kind.clone(), Payload::raw(payload))
    }

    /// The number of the job whose payload this is.
    #[must_use]
    pub fn number(payload: &Payload) -> Option<u64> {
        Some(u64::from_le_bytes(*payload.bytes().first_chunk::<8>()?))
    }

    /// Notes a run.
    pub fn ran(&self, payload: &Payload) {
        let number = Self::number(payload).and_then(|number| usize::try_from(number).ok());
        match number.and_then(|number| self.0.runs.get(number)) {
            Some(runs) => runs.fetch_add(1, Ordering::Relaxed).min(1),
            None => self.0.invented.fetch_add(1, Ordering::Relaxed).min(1) as u8,
        };
        let done = self.0.done.fetch_add(1, Ordering::Relaxed) + 1;
        if done == self.0.target.load(Ordering::Relaxed) {
            self.0.reached.notify_one();
        }
    }

    fn lasts(&self, payload: &Payload) -> Duration {
        let number = Self::number(payload).unwrap_or(0);
        let share = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54; // of 1024
        self.1 / 2 + self.1 * u32::try_from(share).unwrap_or(0) / 1024
    }

    /// How many runs there were.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }

    /// Waits until there were so many runs. One caller at a time.
    pub async fn reaches(&self, runs: u64) {
        self.0.target.store(runs, Ordering::SeqCst);
        while self.runs() < runs {
            // Looks again now and then: the last run may have come before the target was set.
            let wait = Duration::from_millis(20);
            let _ = tokio::time::timeout(wait, self.0.reached.notified()).await;
        }
    }

    /// Proves that each of the numbers ran once.
    ///
    /// # Errors
    /// Says how many did not, and how many ran more than once or were never enqueued.
    pub fn check(&self) -> anyhow::Result<()> {
        let runs = self.0.runs.iter().map(|runs| runs.load(Ordering::Relaxed));
        let missing = runs.clone().filter(|runs| *runs == 0).count();
        let repeated = runs.filter(|runs| *runs > 1).count();
        let invented = self.0.invented.load(Ordering::Relaxed);
        anyhow::ensure!(
            missing == 0 && repeated == 0 && invented == 0,
            "of {} jobs {missing} did not run, {repeated} ran more than once; {invented} runs of \
             jobs that nobody enqueued",
            self.0.runs.len(),
        );
        Ok(())
    }
}

impl Executor for Delivery {
    async fn run(&self, context: Context) -> Result<Option<Payload>, Fail> {
        if !self.1.is_zero() {
            tokio::time::sleep(self.lasts(&context.spec().payload)).await;
        }
        self.ran(&context.spec().payload);
        Ok(None)
    }
}
