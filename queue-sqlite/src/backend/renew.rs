//! T5: leases last longer, and their holders learn of cancel requests.

use queue_core::{ClaimToken, JobId, RenewRequest, Renewal};

use crate::errors::Fault;
use crate::rows::{ms, sixteen};
use crate::session::Session;

/// Never shortens a lease and never makes one.
pub(super) const UPDATE_LEASE: &str =
    "UPDATE claim SET until_ms = max(until_ms, ?2) WHERE token = ?1 RETURNING claim";
/// The jobs of a claim that somebody asked to cancel.
pub(super) const SELECT_ASKED: &str =
    "SELECT id FROM job WHERE claim = ?1 AND cancel_requested = 1";

/// Extends the leases of these claims, in order.
pub(super) fn renew(
    session: &mut Session<'_>,
    request: &RenewRequest,
) -> Result<Vec<Renewal>, Fault> {
    let until_ms = ms(session.now.after(request.lease));
    request.tokens.iter().map(|token| renew_one(session, *token, until_ms)).collect()
}

fn renew_one(session: &Session<'_>, token: ClaimToken, until_ms: i64) -> Result<Renewal, Fault> {
    let Some(claim) = extend(session, token, until_ms)? else { return Ok(Renewal::Lost) };
    let mut asked = session.conn.prepare_cached(SELECT_ASKED)?;
    let asked = asked.query_map([claim], |row| Ok(sixteen(row, 0)?.map(JobId::from_bytes)))?;
    let asked: Vec<_> = asked.collect::<Result<_, _>>()?;
    Ok(Renewal::Held { cancel_requested: asked.into_iter().flatten().collect() })
}

/// Lets a claim last until `until_ms` at least; answers its rowid if it holds jobs.
pub(super) fn extend(
    session: &Session<'_>,
    token: ClaimToken,
    until_ms: i64,
) -> Result<Option<i64>, Fault> {
    let mut update = session.conn.prepare_cached(UPDATE_LEASE)?;
    let mut rows = update.query((token.as_bytes(), until_ms))?;
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
}
