//! [`SqliteBackend`], and one file per operation.

mod admit;
mod attempts;
mod audit;
mod cancel;
mod check;
mod claim;
mod enqueue;
mod get;
mod inspect;
#[cfg(test)]
mod joined;
pub(crate) mod limits;
mod list;
mod maintain;
mod operate;
#[cfg(test)]
mod plans;
mod promote;
mod quarantine;
mod renew;
mod repair;
mod report;
mod settle;
mod stats;
#[cfg(test)]
mod steps;
mod taken;
mod workers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use queue_core::backend::{CheckFinding, QuarantinedJob, Violation};
use queue_core::{
    Backend, CancelOutcome, Claim, ClaimRequest, DeleteOutcome, Durability, EnqueueOutcome, Error,
    Interest, JobId, JobRecord, JobState, Lanes, LimitKey, LimitSettings, LimitStatus, LimitTarget,
    ListRequest, LiveWorker, Maintained, Namespace, NewJob, Page, Placement, QueueName, QueueStats,
    RecoverOutcome, RenewRequest, Renewal, Report, Reported, RetryOutcome, RetryRequest,
    SettleReply, SettleRequest, Wake, WatchRequest, Watched, WorkerId, WorkerInfo,
};
use tokio::sync::mpsc;

use crate::open::{Opened, Place, Role, Room, connect, path_of_namespace, prepare};
use crate::reader::Reader;
use crate::session::Session;
use crate::watch::{Watch, WatchThread};
use crate::writer::{Checkpoints, Outside, Sort, Writer};
use crate::{SqliteOptions, options};
pub(crate) use claim::lanes::SELECT_RUNNABLE;
pub(crate) use claim::{HAS_PAUSE, SELECT_FIRST_DUE};
#[cfg(test)]
pub(crate) use enqueue::enqueue as enqueue_for_tests;

/// The writer takes some eight chunks in together (4 096 jobs), while the next ones are made.
const CHUNKS_UNDER_WAY: usize = 16;

/// A store in one SQLite file, for any number of processes of one host.
///
/// Opening it starts five threads: one that writes, one that moves what was written from the log
/// into the file, two that read, and one that wakes waiting workers. They end when it is dropped,
/// after what was asked of them is done; [`SqliteBackend::close`] also waits for that.
#[derive(Debug)]
pub struct SqliteBackend {
    path: PathBuf,
    options: SqliteOptions,
    place: Arc<Place>,
    room: Room,
    writer: Writer,
    /// For short reads.
    reader: Reader,
    /// For reads that may take long, which must not hold up the short ones.
    long_reader: Reader,
    watch: WatchThread,
    /// Closed when all threads have ended.
    ended: mpsc::Receiver<()>,
}

impl SqliteBackend {
    /// Opens the file at `path`, which is created if it is not there; its directory must exist.
    ///
    /// # Errors
    /// [`Error::Refused`], with what to do about it, for a file that is not a queue database or
    /// belongs to a newer version or another namespace, a file system that does not keep the
    /// promises (a network file system), missing permissions, and a SQLite library that is too
    /// old. [`Error::Unavailable`] if another process keeps the file locked.
    pub fn open(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, Error> {
        let Opened { path, place, room, conn } = prepare(path.as_ref(), &options)?;
        let (reading, readers_ended) = mpsc::channel(1);
        let checkpoints = Checkpoints::start(&path, Arc::clone(&place), reading.clone())?;
        let reader = Reader::start(&path, reading.clone())?;
        let long_reader = Reader::start(&path, reading.clone())?;
        let watch = Watch::start(connect(&path, Role::Reader)?, &path, reading)?;
        let (ending, ended) = mpsc::channel(1);
        let watching = Arc::clone(watch.watch());
        let outside = Outside::new(Arc::clone(&place), room.clone(), watching, options.durability);
        let writer = Writer::start(conn, outside, checkpoints, readers_ended, ending)?;
        // All connections are of one file.
        place.check()?;
        Ok(Self { path, options, place, room, writer, reader, long_reader, watch, ended })
    }

    /// The file that [`SqliteBackend::open`] would use, which need not be there: that of a namespace stands
    /// beside the others.
    ///
    /// # Errors
    /// [`Error::Refused`] if `path` is a directory.
    pub fn file_of(path: impl AsRef<Path>, namespace: &Namespace) -> Result<PathBuf, Error> {
        path_of_namespace(path.as_ref(), namespace)
    }

    /// The file that holds the jobs: absolute, without symbolic links, and with the namespace's
    /// suffix.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finishes what was asked for, empties the write-ahead log, closes the file, and returns when
    /// all of that is done. Dropping the backend does the same without waiting.
    pub async fn close(self) {
        let Self { writer, reader, long_reader, watch, mut ended, .. } = self;
        drop((writer, reader, long_reader, watch));
        while ended.recv().await.is_some() {}
    }
}

impl Backend for SqliteBackend {
    async fn enqueue(
        &self,
        jobs: &[NewJob],
        durability: Durability,
    ) -> Result<Vec<EnqueueOutcome>, Error> {
        self.take_in(jobs, durability, false).await
    }

    async fn enqueue_chunk(
        &self,
        jobs: &[NewJob],
        durability: Durability,
    ) -> Result<Vec<EnqueueOutcome>, Error> {
        self.take_in(jobs, durability, true).await
    }

    fn chunks_under_way(&self) -> usize {
        CHUNKS_UNDER_WAY
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, Error> {
        let (jobs, worker) = (request.max as usize, request.worker.clone());
        let (request, room) = (request.clone(), self.room.clone());
        let claim = move |session: &mut Session<'_>| claim::claim(session, &request, &room);
        let answer = self.writer.run(jobs, claim).await;
        answer.map(|answer| self.note(&worker, answer))
    }

    async fn renew(&self, request: &RenewRequest) -> Result<Vec<Renewal>, Error> {
        let request = request.clone();
        let claims = request.tokens.len();
        self.writer.run(claims, move |session| renew::renew(session, &request)).await
    }

    async fn settle(&self, request: &SettleRequest) -> Result<SettleReply, Error> {
        let jobs = request.settlements.len();
        let (settlements, room) = (request.settlements.clone(), self.room.clone());
        let settle = move |session: &mut Session<'_>| settle::settle(session, &settlements, &room);
        let Some(request) = request.claim.clone() else {
            return Ok(SettleReply::new(self.writer.run(jobs, settle).await?, None));
        };
        let worker = request.worker.clone();
        let room = self.room.clone();
        let claim = move |session: &mut Session<'_>| claim::claim(session, &request, &room);
        let (settled, answer) = self.writer.run_both(jobs, settle, claim).await?;
        let claim = match answer {
            Ok(answer) => self.note(&worker, answer),
            // The settlements took effect, which the worker should learn now: it frees its slots.
            // The next claim tells it that the store is full.
            Err(Error::StoreFull(_)) => Claim::default(),
            Err(error) => return Err(error),
        };
        Ok(SettleReply::new(settled, Some(claim)))
    }

    async fn wait(&self, interest: &Interest, timeout: Duration) -> Result<Wake, Error> {
        self.place.check()?;
        self.watch.watch().wait(interest, timeout).await
    }

    async fn cancel(&self, ids: &[JobId]) -> Result<Vec<CancelOutcome>, Error> {
        let ids = ids.to_vec();
        self.writer.run(ids.len(), move |session| cancel::cancel(session, &ids)).await
    }

    async fn get(&self, ids: &[JobId]) -> Result<Vec<Option<JobRecord>>, Error> {
        self.place.check()?;
        let ids = ids.to_vec();
        let got = self.reader.run(move |conn| get::get(conn, &ids)).await?;
        self.put_aside(got.broken).await?;
        got.error.map_or(Ok(got.records), Err)
    }

    async fn list(&self, request: &ListRequest) -> Result<Page, Error> {
        self.place.check()?;
        let request = request.clone();
        let (page, broken) = self.reader.run(move |conn| list::list(conn, &request)).await?;
        self.put_aside(broken).await?;
        Ok(page)
    }

    async fn retry(&self, request: &RetryRequest) -> Result<Vec<RetryOutcome>, Error> {
        let request = request.clone();
        let jobs = request.jobs.len();
        self.writer.run(jobs, move |session| operate::retry(session, &request)).await
    }

    async fn delete(&self, jobs: &[(JobId, JobState)]) -> Result<Vec<DeleteOutcome>, Error> {
        let jobs = jobs.to_vec();
        self.writer.run(jobs.len(), move |session| operate::delete(session, &jobs)).await
    }

    async fn quarantined(&self, ids: &[JobId]) -> Result<Vec<Option<QuarantinedJob>>, Error> {
        self.place.check()?;
        let ids = ids.to_vec();
        self.reader.run(move |conn| quarantine::quarantined(conn, &ids)).await
    }

    async fn recover(&self, ids: &[JobId]) -> Result<Vec<RecoverOutcome>, Error> {
        let ids = ids.to_vec();
        self.writer.run(ids.len(), move |session| quarantine::recover(session, &ids)).await
    }

    async fn set_paused(&self, queue: &QueueName, paused: bool) -> Result<bool, Error> {
        let queue = queue.clone();
        self.writer.run(1, move |session| operate::set_paused(session, &queue, paused)).await
    }

    async fn paused(&self) -> Result<Vec<QueueName>, Error> {
        self.place.check()?;
        self.reader.run(operate::paused).await
    }

    async fn set_limit(
        &self,
        target: &LimitTarget,
        settings: Option<&LimitSettings>,
    ) -> Result<bool, Error> {
        let (target, settings) = (target.clone(), settings.cloned());
        let set =
            move |session: &mut Session<'_>| limits::set_limit(session, &target, settings.as_ref());
        self.writer.run(1, set).await
    }

    async fn reset_limit(&self, key: &LimitKey) -> Result<bool, Error> {
        let key = key.clone();
        self.writer.run(1, move |session| limits::reset_limit(session, &key)).await
    }

    async fn limits(&self) -> Result<Vec<(LimitTarget, LimitSettings)>, Error> {
        self.place.check()?;
        self.reader.run(limits::limits).await
    }

    async fn limit_status(&self, keys: &[LimitKey]) -> Result<Vec<LimitStatus>, Error> {
        self.place.check()?;
        let keys = keys.to_vec();
        self.reader.run(move |conn| limits::status(conn, &keys)).await
    }

    async fn announce(&self, worker: &WorkerInfo, believed_for: Duration) -> Result<(), Error> {
        let worker = worker.clone();
        let announce =
            move |session: &mut Session<'_>| workers::announce(session, &worker, believed_for);
        self.writer.run(1, announce).await
    }

    async fn workers(&self) -> Result<Vec<LiveWorker>, Error> {
        self.place.check()?;
        self.reader.run(workers::workers).await
    }

    async fn place(&self, id: JobId) -> Result<Placement, Error> {
        self.place.check()?;
        self.reader.run(move |conn| inspect::place(conn, id)).await
    }

    async fn lanes(&self, queue: &QueueName) -> Result<Lanes, Error> {
        self.place.check()?;
        let queue = queue.clone();
        self.reader.run(move |conn| inspect::lanes(conn, &queue)).await
    }

    async fn report(&self, reports: &[Report]) -> Result<Vec<Reported>, Error> {
        let (reports, room) = (reports.to_vec(), self.room.clone());
        self.writer
            .run(reports.len(), move |session| report::report(session, &reports, &room))
            .await
    }

    async fn watch(&self, requests: &[WatchRequest]) -> Result<Vec<Option<Watched>>, Error> {
        self.place.check()?;
        let requests = requests.to_vec();
        let (watched, broken) = self.reader.run(move |conn| report::watch(conn, &requests)).await?;
        self.put_aside(broken).await?;
        Ok(watched)
    }

    async fn stats(&self) -> Result<Vec<QueueStats>, Error> {
        self.place.check()?;
        self.reader.run(stats::stats).await
    }

    async fn maintain(&self, budget: u32) -> Result<Maintained, Error> {
        let room = self.room.clone();
        let work = move |session: &mut Session<'_>| maintain::maintain(session, budget, &room);
        self.writer.run(budget as usize, work).await
    }

    async fn audit(&self, repair: bool) -> Result<Vec<Violation>, Error> {
        self.place.check()?;
        if repair {
            return self.writer.run(0, repair::repair).await;
        }
        self.long_reader.run(audit::audit).await
    }

    async fn check(&self) -> Result<Vec<CheckFinding>, Error> {
        if let Err(error) = self.place.check() {
            // Nothing that could be found out would be about the file that is there now.
            return Ok(vec![check::moved(&error)]);
        }
        let synchronous = self.writer.run(0, |session| check::synchronous(session.conn)).await?;
        let checked = check::Checked {
            path: self.path.clone(),
            room: self.room.clone(),
            durability: self.options.durability,
            synchronous,
        };
        self.long_reader.run(move |conn| check::check(conn, &checked)).await
    }
}

impl SqliteBackend {
    async fn take_in(
        &self,
        jobs: &[NewJob],
        durability: Durability,
        is_bulk: bool,
    ) -> Result<Vec<EnqueueOutcome>, Error> {
        let is_synced = match durability {
            Durability::Memory => false,
            Durability::Fsync => true,
            other => {
                return Err(Error::Unsupported(format!(
                    "durability {other}: a file has no replicas; use redis: for that"
                )));
            }
        };
        let reached = match self.options.durability {
            options::Durability::Memory if !is_synced => Durability::Memory,
            _ => Durability::Fsync,
        };
        let (jobs, room) = (jobs.to_vec(), self.room.clone());
        let count = jobs.len();
        let enqueue =
            move |session: &mut Session<'_>| enqueue::enqueue(session, &jobs, reached, &room);
        self.writer.enqueue(count, Sort { is_synced, is_bulk }, enqueue).await
    }

    /// Remembers what a worker knows after a claim, for its next wait.
    fn note(&self, worker: &WorkerId, (claim, first_due): claim::Answer) -> Claim {
        self.watch.watch().learned(worker, first_due);
        claim
    }

    /// Puts jobs aside that a reader could not read, by their rowids.
    async fn put_aside(&self, broken: Vec<i64>) -> Result<(), Error> {
        if broken.is_empty() {
            return Ok(());
        }
        self.writer.run(broken.len(), move |session| quarantine::put_aside(session, &broken)).await
    }
}

#[cfg(test)]
mod tests {
    use queue_core::{ClaimToken, KindSlots, Lease, Outcome, Payload, Settled, Settlement};

    use super::*;

    #[tokio::test]
    async fn long_reads_do_not_hold_up_short_ones() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let backend = SqliteBackend::open(path, SqliteOptions::default()).unwrap();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let long = backend.long_reader.run(move |_| Ok(ended.recv().is_err()));
        let audits = async {
            let (first, second) = tokio::join!(backend.audit(false), backend.audit(false));
            assert!(first.unwrap().is_empty() && second.unwrap().is_empty());
        };
        let short = async {
            // The long ones have been sent when this is polled, and do not end before it.
            assert_eq!(backend.get(&[JobId::new()]).await.unwrap(), [None]);
            assert_eq!(backend.stats().await.unwrap(), []);
            drop(end);
        };
        let (long, (), ()) = tokio::join!(biased; long, audits, short);
        assert!(long.unwrap());
    }

    /// What is left then is for ending jobs.
    #[tokio::test]
    async fn the_last_space_is_not_for_large_results_or_logs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("queue.db");
        let mut backend = SqliteBackend::open(path, SqliteOptions::default()).unwrap();
        let job = || NewJob::new("k".parse().unwrap(), Payload::raw("x"));
        let jobs = [job(), job(), job()];
        backend.enqueue(&jobs, Durability::Fsync).await.unwrap();
        let request = claim_of_three();
        let leases = backend.claim(&request).await.unwrap().leases;
        backend.room.take_reserve(0);
        backend.room = backend.room.on_disk_with(64 * 1024);

        let refused = backend.enqueue(&[job()], Durability::Fsync).await;
        assert!(matches!(refused, Err(Error::StoreFull(_))), "{refused:?}");
        for met in backend.enqueue(&jobs, Durability::Fsync).await.unwrap() {
            assert!(matches!(met, EnqueueOutcome::Done(done) if done.duplicate), "{met:?}");
        }
        let other = ClaimRequest { token: ClaimToken::random(), ..request };
        let refused = backend.claim(&other).await;
        assert!(matches!(refused, Err(Error::StoreFull(_))), "{refused:?}");
        let report = |line: String| Report {
            id: leases[0].spec.id,
            token: leases[0].token,
            progress: None,
            lines_before: 0,
            lines: vec![line.clone(), line],
        };
        let refused = backend.report(&[report("x".repeat(9 * 1024))]).await;
        assert!(matches!(refused, Err(Error::StoreFull(_))), "{refused:?}");
        assert_eq!(backend.report(&[report("x".to_owned())]).await.unwrap(), [Reported::Applied]);

        let end = |number: usize, result: Option<usize>| {
            let result = result.map(|bytes| Payload::raw(vec![0; bytes]));
            let lease: &Lease = &leases[number];
            let (id, token) = (lease.spec.id, lease.token);
            let outcome = Outcome::Completed { result };
            Settlement { id, token, outcome, elapsed: Duration::ZERO }
        };
        let settle = async |settlements| {
            backend.settle(&SettleRequest { settlements, claim: None }).await.map(|r| r.settled)
        };
        let refused = settle(vec![end(0, Some(9 * 1024)), end(1, Some(9 * 1024))]).await;
        assert!(matches!(refused, Err(Error::StoreFull(_))), "{refused:?}");
        let ends = vec![end(0, Some(9 * 1024)), end(1, None), end(2, Some(1024))];
        assert_eq!(settle(ends).await.unwrap(), [Settled::Applied(JobState::Completed); 3]);
    }

    fn claim_of_three() -> ClaimRequest {
        ClaimRequest {
            token: ClaimToken::random(),
            worker: WorkerId::new("w").unwrap(),
            queues: vec![QueueName::default()],
            kinds: vec![KindSlots::new("k".parse().unwrap(), 3)],
            max: 3,
            round_jobs: 0,
            lease: Duration::from_secs(30),
        }
    }
}
