//! T3: jobs whose time has come become ready.

use crate::errors::Fault;
use crate::rows::ms;
use crate::session::{End, Head, SELECT_DUE_HEADS, Session};

/// Makes due jobs ready, at most `budget`; answers how many, and whether more are due.
pub(super) fn promote(session: &mut Session<'_>, budget: u32) -> Result<(u64, bool), Fault> {
    let mut select = session.conn.prepare_cached(SELECT_DUE_HEADS)?;
    let due = select.query_map((ms(session.now), i64::from(budget) + 1), Head::read)?;
    let mut due: Vec<_> = due.collect::<Result<_, _>>()?;
    let budget = usize::try_from(budget).unwrap_or(usize::MAX);
    let more = due.len() > budget;
    due.truncate(budget);
    let handled = due.len() as u64;
    for found in due {
        if let Some(head) = session.sound(found)? {
            session.make_ready(&head, End::Tail)?;
        }
    }
    Ok((handled, more))
}
