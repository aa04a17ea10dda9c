//! Places in listings, as the text of a cursor: state, queue and kind of the listing (`*` for any)
//! and then the keys of the place, all separated by slashes, which no name
//! holds.

use queue_core::{Cursor, JobState, ListRequest, Priority};

/// A place in a listing, where the next page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// After the job of this due time and id.
    Due(i64, [u8; 16]),
    /// At `position` of a lane.
    Ready { queue: String, kind: String, limits: String, priority: Priority, position: i64 },
    /// At the job of this number of a claim.
    Running(i64, i64),
    /// After the job of this expiry and id on a shelf.
    Finished { queue: String, part: i64, expiry_ms: i64, id: [u8; 16] },
    /// At this rowid.
    Aside(i64),
}

impl Place {
    /// The cursor of this place in the listing of `request`.
    pub(super) fn cursor(&self, request: &ListRequest) -> Option<Cursor> {
        let prefix = prefix(request);
        let place = match self {
            Self::Due(due_ms, id) => format!("{due_ms}/{}", hex(id)),
            Self::Ready { queue, kind, limits, priority, position } => {
                // A cursor holds no space; keys hold no comma.
                let limits = limits.replace(' ', ",");
                format!("{queue}/{kind}/{limits}/{}/{position}", priority.level())
            }
            Self::Running(claim, position) => format!("{claim}/{position}"),
            Self::Finished { queue, part, expiry_ms, id } => {
                format!("{queue}/{part}/{expiry_ms}/{}", hex(id))
            }
            Self::Aside(job) => job.to_string(),
        };
        Cursor::new(prefix + &place)
    }

    /// The place of a cursor, if it is one of the listing of `request`.
    pub(super) fn of(request: &ListRequest, cursor: &Cursor) -> Option<Self> {
        let place = cursor.as_str().strip_prefix(&prefix(request))?;
        let parts: Vec<&str> = place.split('/').collect();
        match (request.state, parts.as_slice()) {
            (JobState::Scheduled | JobState::Retrying, [due_ms, id]) => {
                Some(Self::Due(due_ms.parse().ok()?, unhex(id)?))
            }
            (JobState::Ready, [queue, kind, limits, priority, position]) => Some(Self::Ready {
                queue: (*queue).to_owned(),
                kind: (*kind).to_owned(),
                limits: limits.replace(',', " "),
                priority: Priority::new(priority.parse().ok()?)?,
                position: position.parse().ok()?,
            }),
            (JobState::Running, [claim, position]) => {
                Some(Self::Running(claim.parse().ok()?, position.parse().ok()?))
            }
            (
                JobState::Completed | JobState::Dead | JobState::Cancelled,
                [queue, part, expiry_ms, id],
            ) => Some(Self::Finished {
                queue: (*queue).to_owned(),
                part: part.parse().ok()?,
                expiry_ms: expiry_ms.parse().ok()?,
                id: unhex(id)?,
            }),
            (JobState::Quarantined, [job]) => Some(Self::Aside(job.parse().ok()?)),
            _ => None,
        }
    }
}

fn prefix(request: &ListRequest) -> String {
    let queue = request.queue.as_ref().map_or("*", |queue| queue.as_str());
    let kind = request.kind.as_ref().map_or("*", |kind| kind.as_str());
    format!("{}/{queue}/{kind}/", request.state)
}

fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_hex.then(|| u128::from_str_radix(text, 16).ok()).flatten()?;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Vec<(JobState, Place)> {
        let (queue, kind) = ("q-1.x".to_owned(), "k".repeat(64));
        let priority = Priority::LAST;
        let limits = "a:1 b:2".to_owned();
        vec![
            (JobState::Retrying, Place::Due(-5, [0xab; 16])),
            (
                JobState::Ready,
                Place::Ready { queue: queue.clone(), kind, limits, priority, position: -9 },
            ),
            (JobState::Running, Place::Running(3, 0)),
            (JobState::Dead, Place::Finished { queue, part: 3, expiry_ms: 7, id: [1; 16] }),
            (JobState::Quarantined, Place::Aside(i64::MAX)),
        ]
    }

    #[test]
    fn a_place_survives_its_cursor_and_belongs_to_one_listing() {
        for (state, place) in places() {
            let request = ListRequest::new(state);
            let cursor = place.cursor(&request).unwrap();
            assert_eq!(Place::of(&request, &cursor), Some(place));
            let queue = Some("q-1.x".parse().unwrap());
            let other = ListRequest { queue, ..request.clone() };
            assert_eq!(Place::of(&other, &cursor), None);
            for other in JobState::ALL.into_iter().filter(|other| *other != state) {
                assert_eq!(Place::of(&ListRequest::new(other), &cursor), None, "{cursor}");
            }
        }
    }

    #[test]
    fn garbage_is_no_place() {
        for text in ["x", "dead/*/*/", "dead/*/*/q/2/7/00", "running/*/*/1", "running/*/*/1/2/3"] {
            for state in JobState::ALL {
                let cursor = Cursor::new(text).unwrap();
                assert_eq!(Place::of(&ListRequest::new(state), &cursor), None, "{text}");
            }
        }
    }
}
