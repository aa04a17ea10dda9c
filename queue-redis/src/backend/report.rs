//! Progress and log lines of running jobs, and looks at watched ones.

use queue_core::{Error, Report, Reported, Timestamp, WatchRequest, Watched};
use redis::Value;

use super::RedisBackend;
use crate::record::{finished_at, state_of, unpack_attempts, unpack_log};
use crate::reply::{self, Items, unexpected};
use crate::scripts;
use crate::store::{self, Call, Repeat};

/// So many reports are taken by one script: each may read and write a whole log.
const REPORTS_MAX: usize = 32;

pub(super) async fn run(
    backend: &RedisBackend,
    reports: &[Report],
) -> Result<Vec<Reported>, Error> {
    let mut outcomes = Vec::with_capacity(reports.len());
    for reports in reports.chunks(REPORTS_MAX) {
        let call = Call::script(&scripts::report, command(backend, reports));
        let letters = reply::bytes(store::one(&backend.link, call, Repeat::Freely).await?)?;
        if letters.len() != reports.len() {
            return Err(unexpected("not one answer per report"));
        }
        let reported = |letter| if letter == b'a' { Reported::Applied } else { Reported::Stale };
        outcomes.extend(letters.into_iter().map(reported));
    }
    Ok(outcomes)
}

fn command(backend: &RedisBackend, reports: &[Report]) -> redis::Cmd {
    let lines: usize = reports.iter().map(|report| report.lines.len()).sum();
    let bytes: usize = reports.iter().flat_map(|report| &report.lines).map(String::len).sum();
    let arguments = reports.len() * 6 + lines;
    let mut cmd = scripts::report.call(&backend.keys, arguments, bytes + arguments * 16);
    for Report { id, token, progress, lines_before, lines } in reports {
        cmd.arg(id.as_bytes().as_slice()).arg(token.as_bytes().as_slice());
        match progress {
            Some(progress) => cmd.arg(progress.percent).arg(&progress.text),
            None => cmd.arg("").arg(""),
        };
        cmd.arg(*lines_before.min(&Timestamp::MAX.as_ms())).arg(lines.len());
        for line in lines {
            cmd.arg(line);
        }
    }
    cmd
}

pub(super) async fn watch(
    backend: &RedisBackend,
    requests: &[WatchRequest],
) -> Result<Vec<Option<Watched>>, Error> {
    let mut looks = Vec::with_capacity(requests.len());
    // An answer has only as many logs as arrive in time.
    while looks.len() < requests.len() {
        let rest = &requests[looks.len()..];
        let mut cmd = scripts::watch.call(&backend.keys, rest.len() * 2, rest.len() * 40);
        for WatchRequest { id, after_line } in rest {
            cmd.arg(id.as_bytes().as_slice()).arg(after_line);
        }
        let call = Call::script(&scripts::watch, cmd);
        let replies = reply::array(store::one(&backend.link, call, Repeat::Freely).await?)?;
        if replies.is_empty() {
            return Err(unexpected("no answer"));
        }
        for reply in replies {
            looks.push(watched(reply)?);
        }
    }
    Ok(looks)
}

fn watched(reply: Value) -> Result<Option<Watched>, Error> {
    if reply == Value::Nil {
        return Ok(None);
    }
    let mut items = Items::of(reply)?;
    let state = u8::try_from(items.count()?).ok().and_then(state_of);
    let state = state.ok_or_else(|| unexpected("an unknown state"))?;
    let failures = unpack_attempts(&items.bytes()?).map_or(0, |attempts| attempts.failures);
    let mut watched = Watched::new(state, failures);
    let end = items.bytes()?;
    watched.finished_at = (!end.is_empty()).then(|| finished_at(&end));
    let told = unpack_log(&items.bytes()?);
    (watched.progress, watched.lines) = (told.progress, told.lines);
    Ok(Some(watched))
}
