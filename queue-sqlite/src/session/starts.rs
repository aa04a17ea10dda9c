//! How often jobs of queues have started lately, as it stands in the row of the store.

use queue_core::{QueueName, SpanStarts, StartRate, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row};

use super::SELECT_STORE;
use crate::errors::Fault;
use crate::rows::text;

/// The most queues that are counted. With more of them, those with the fewest starts make room: it
/// is an estimate, and the row fits into its page.
const QUEUES_MAX: usize = 26;

/// The longest text that the table allows.
const TEXT_MAX_BYTES: usize = 3500;

/// The column `starts` of the table `store`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Starts(String);

impl Starts {
    /// Text that the table does not allow is none.
    pub(crate) fn read(row: &Row<'_>, column: usize) -> rusqlite::Result<Self> {
        let stored = text(row, column)?.filter(|stored| stored.len() <= TEXT_MAX_BYTES);
        Ok(Self(stored.unwrap_or_default().to_owned()))
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// How fast jobs of a queue start.
    pub(crate) fn of(&self, queue: &QueueName, now: Timestamp) -> StartRate {
        let rate = self.rates(now).find(|(of, _)| *of == queue.as_str()).map(|(_, rate)| rate);
        rate.unwrap_or_default()
    }

    /// Counts jobs of a queue that start.
    pub(crate) fn add(&mut self, queue: &QueueName, started: u64, now: Timestamp) {
        let mut rates: Vec<(&str, StartRate)> = self.rates(now).collect();
        let place = rates.iter().position(|(of, _)| *of == queue.as_str()).unwrap_or_else(|| {
            // A program that wrote less of each may have left more.
            while rates.len() >= QUEUES_MAX {
                let fewest = |index: &usize| rates[*index].1.count(now);
                let rarest = (0..rates.len()).min_by_key(fewest).unwrap_or(0);
                rates.swap_remove(rarest);
            }
            rates.push((queue.as_str(), StartRate::default()));
            rates.len() - 1
        });
        rates[place].1.add(started, now);
        self.0 = written(rates.into_iter());
    }

    /// Forgets the queues of which none has started lately.
    pub(crate) fn tidy(&mut self, now: Timestamp) {
        if !self.0.is_empty() {
            self.0 = written(self.rates(now));
        }
    }

    /// Of each queue whose jobs have started lately. Whatever else damage has put there is left out,
    /// and so is the future.
    fn rates(&self, now: Timestamp) -> impl Iterator<Item = (&str, StartRate)> {
        let rates = self.0.split(';').filter_map(|entry| {
            let (queue, numbers) = entry.split_once(' ')?;
            let mut numbers = numbers.split(' ').map(|number| number.parse::<u32>().map(u64::from));
            let mut next = || numbers.next()?.ok();
            let (span, current, previous) = (next()?, next()?, next()?);
            // A program that did not write these may have written the entry.
            let mut starts = |count| {
                let (first_ms, at_once) = (next().unwrap_or(0), next().unwrap_or(0));
                SpanStarts { count, first_ms, at_once }
            };
            let (current, previous) = (starts(current), starts(previous));
            Some((queue, StartRate { span, current, previous }))
        });
        rates.filter(move |(_, rate)| rate.span <= StartRate::span_at(now) && rate.count(now) > 0)
    }
}

fn written<'a>(rates: impl Iterator<Item = (&'a str, StartRate)>) -> String {
    // More than anybody can start would not be read back.
    let number = |count: u64| count.min(u64::from(u32::MAX));
    let first = |starts: SpanStarts| {
        format!("{} {}", starts.first_ms.min(StartRate::SPAN_MS), number(starts.at_once))
    };
    let entry = |(queue, StartRate { span, current, previous })| {
        let counts = format!("{} {}", number(current.count), number(previous.count));
        format!("{queue} {span} {counts} {} {}", first(current), first(previous))
    };
    rates.map(entry).collect::<Vec<String>>().join(";")
}

/// How fast jobs of a queue start, as a reader sees it.
pub(crate) fn start_rate(
    conn: &Connection,
    queue: &QueueName,
    now: Timestamp,
) -> Result<StartRate, Fault> {
    let mut select = conn.prepare_cached(SELECT_STORE)?;
    let starts = select.query_row([], |row| Starts::read(row, 5)).optional()?;
    Ok(starts.unwrap_or_default().of(queue, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: u64 = 136_748_160;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(SPAN * StartRate::SPAN_MS + ms)
    }

    fn queue(n: usize) -> QueueName {
        QueueName::new(format!("{n:0>64}")).unwrap()
    }

    #[test]
    fn queues_are_counted_until_nothing_has_started_for_a_while() {
        let (a, b) = (QueueName::new("a").unwrap(), QueueName::new("b-1.x_y").unwrap());
        let mut starts = Starts::default();
        starts.add(&a, 2, at(0));
        starts.add(&b, 1, at(1));
        starts.add(&a, 3, at(2));
        assert_eq!(starts.text(), "a 136748160 5 0 0 2 0 0;b-1.x_y 136748160 1 0 1 1 0 0");
        starts.add(&b, 7, at(StartRate::SPAN_MS));
        let later = at(StartRate::SPAN_MS + 1);
        let some = |count, first_ms, at_once| SpanStarts { count, first_ms, at_once };
        let rate = |current, previous| StartRate { span: SPAN + 1, current, previous };
        let of = |queue| starts.of(queue, later).at(later);
        assert_eq!(
            (of(&a), of(&b)),
            (rate(some(0, 0, 0), some(5, 0, 2)), rate(some(7, 0, 7), some(1, 1, 1)))
        );
        starts.tidy(at(2 * StartRate::SPAN_MS));
        assert_eq!(starts.text(), "b-1.x_y 136748161 7 1 0 7 1 1");
        starts.tidy(at(3 * StartRate::SPAN_MS));
        assert_eq!(starts, Starts::default());
    }

    #[test]
    fn more_queues_than_there_is_room_for_make_room_where_least_has_started() {
        let mut starts = Starts::default();
        for n in 0..2 * QUEUES_MAX {
            starts.add(&queue(0), u64::MAX / 4, at(0));
            starts.add(&queue(n), u64::from(u32::MAX), at(0));
            assert!(starts.text().len() <= TEXT_MAX_BYTES, "{}", starts.text().len());
        }
        assert_eq!(starts.rates(at(0)).count(), QUEUES_MAX);
        let last = starts.of(&queue(2 * QUEUES_MAX - 1), at(0));
        assert_eq!(last.current.count, u64::from(u32::MAX));
    }

    #[test]
    fn what_is_no_count_is_left_out() {
        let damaged = "a 136748160 5;b;;c -1 1 1;d 136748170 1 1;e 136748160 1 x;f 136748160 2 1";
        let mut starts = Starts(damaged.to_owned());
        starts.tidy(at(0));
        assert_eq!(starts.text(), "f 136748160 2 1 0 0 0 0");
    }

    #[test]
    fn what_an_earlier_program_has_written_is_read_and_fits() {
        let entry = |n| format!("{} 136748160 {} {}", queue(n), u32::MAX, u32::MAX);
        let mut starts = Starts((0..32).map(entry).collect::<Vec<_>>().join(";"));
        assert_eq!(starts.of(&queue(31), at(0)).current.count, u64::from(u32::MAX));
        starts.tidy(at(0));
        assert!(starts.text().len() <= TEXT_MAX_BYTES, "{}", starts.text().len());
        starts.add(&queue(32), 1, at(0));
        assert_eq!(starts.rates(at(0)).count(), QUEUES_MAX);
    }
}
