//! `workerd audit`: does the store agree with itself?

use queue::backend::Violation;
use serde::Serialize;

use super::Common;
use crate::display::table;
use crate::exit::{Exit, Outcome};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Put right what can be without losing a job
    #[arg(long)]
    repair: bool,
}

#[derive(Serialize)]
struct Audited {
    violations: Vec<Disagreement>,
}

#[derive(Serialize)]
struct Disagreement {
    job: Option<String>,
    what: String,
    repaired: bool,
}

/// # Errors
/// Why the store could not be looked at.
pub(super) async fn execute(common: &Common, args: &Args) -> Outcome {
    let queue = common.connect().await?;
    let violations = if args.repair { queue.repair().await? } else { queue.audit().await? };
    let disagreement = |violation: Violation| Disagreement {
        job: violation.job.map(|id| id.to_string()),
        what: violation.what,
        repaired: violation.repaired,
    };
    let audited = Audited { violations: violations.into_iter().map(disagreement).collect() };
    common.answer(&audited, || text(&audited.violations, args.repair))?;
    let is_good = audited.violations.iter().all(|violation| violation.repaired);
    Ok(if is_good { Exit::Done } else { Exit::Failed })
}

fn text(violations: &[Disagreement], repair: bool) -> String {
    if violations.is_empty() {
        return "every index agrees with the jobs\n".to_owned();
    }
    let row = |violation: &Disagreement| {
        let repaired = if violation.repaired { "repaired" } else { "no" };
        let job = violation.job.clone().unwrap_or_default();
        vec![job, violation.what.clone(), repaired.to_owned()]
    };
    let mut text = table(
        &["job", "what disagrees", "repaired"],
        &violations.iter().map(row).collect::<Vec<_>>(),
    );
    if !repair {
        text += "workerd audit --repair puts right what can be without losing a job\n";
    }
    text
}
