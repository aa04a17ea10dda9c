//! Clocks: ours, the server's and the store's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use queue_core::Error;
use queue_core::backend::CheckFinding;

use super::plain;
use crate::connect::Link;
use crate::keys::Keys;
use crate::reply;

const CLOCKS_MAY_DIFFER: Duration = Duration::from_secs(5);
/// How far the store's clock may be ahead of its server's before delayed jobs are plainly late.
const AHEAD_MAX: Duration = Duration::from_secs(60);

pub(super) async fn findings(link: &Link, keys: &Keys) -> Result<[CheckFinding; 2], Error> {
    let server = reply::time(plain(link, &["TIME"]).await?)?;
    let store = latest_used(link, keys).await?;
    Ok([clock(server), store_clock(server, store, keys.meta())])
}

/// The latest time that the store has used, since 1970; it never goes back behind it.
async fn latest_used(link: &Link, keys: &Keys) -> Result<Duration, Error> {
    let latest = reply::bytes(plain(link, &["HGET", keys.meta(), "clock_ms"]).await?)?;
    Ok(Duration::from_millis(reply::decimal(&latest)))
}

fn clock(server: Duration) -> CheckFinding {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let apart = ours.abs_diff(server);
    if apart <= CLOCKS_MAY_DIFFER {
        CheckFinding::good("clock", "within 5 s of this machine's")
    } else {
        CheckFinding::warning(
            "clock",
            format!("{} s apart from this machine's", apart.as_secs()),
            "times that people give are taken by the server's clock; set up NTP on both",
        )
    }
}

/// The server's clock was once ahead, or has been set back: the store's time stands still until
/// the server's reaches it.
fn store_clock(server: Duration, store: Duration, meta: &str) -> CheckFinding {
    const NAME: &str = "store clock";
    let ahead = store.saturating_sub(server);
    let found = format!(
        "{} s ahead of the server's: until that has caught up no delayed job comes due, no lease \
         ends and no record is dropped",
        ahead.as_secs()
    );
    if ahead > AHEAD_MAX {
        CheckFinding::bad(
            NAME,
            found,
            format!(
                "set the server's clock right if it is wrong (NTP); if it is right, stop every \
                 worker and producer, run HDEL {meta} clock_ms, and start them again: what was \
                 given a time by the wrong clock keeps it"
            ),
        )
    } else if ahead > CLOCKS_MAY_DIFFER {
        CheckFinding::warning(NAME, found, "it passes by itself; set up NTP on the server")
    } else {
        CheckFinding::good(NAME, "in step with the server's")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use queue_core::backend::Verdict;

    #[test]
    fn a_server_whose_clock_is_apart_is_odd() {
        let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(clock(ours).verdict, Verdict::Good);
        for apart in [ours + Duration::from_secs(60), ours - Duration::from_secs(60)] {
            assert_eq!(clock(apart).verdict, Verdict::Warning);
        }
    }

    #[test]
    fn a_store_whose_clock_is_ahead_is_late() {
        let server = Duration::from_secs(1_000_000);
        for (ahead_ms, expected) in [
            (0, Verdict::Good),
            (5_000, Verdict::Good),
            (5_001, Verdict::Warning),
            (60_000, Verdict::Warning),
            (60_001, Verdict::Bad),
        ] {
            let finding = store_clock(server, server + Duration::from_millis(ahead_ms), "m");
            assert_eq!(finding.verdict, expected, "{ahead_ms} ms");
        }
        assert_eq!(store_clock(server, Duration::ZERO, "m").verdict, Verdict::Good);
        let bad = store_clock(server, server * 2, "{shop/0}:meta");
        assert!(bad.found.starts_with("1000000 s ahead"), "{}", bad.found);
        assert!(bad.remedy.contains("HDEL {shop/0}:meta clock_ms"), "{}", bad.remedy);
    }
}
