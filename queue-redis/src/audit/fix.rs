//! Repairs: what must still be so, and what to write then.

use std::collections::BTreeMap;

use queue_core::backend::Violation;
use queue_core::{ClaimToken, Error, JobId};
use redis::Value;

use super::look::Looker;
use super::rules::Finding;
use crate::connect::Link;
use crate::keys::Keys;
use crate::scripts;
use crate::store::{self, Call, Repeat};

type Command = Vec<Vec<u8>>;

/// So many fixes are made by one script.
const FIXES_MAX: usize = 50;

/// One repair. The second word of a command is a key without the namespace's prefix.
#[derive(Debug, Clone, Default)]
pub(super) struct Fix {
    checks: Vec<(Command, Vec<u8>)>,
    writes: Vec<Command>,
}

fn command(words: &[&[u8]]) -> Command {
    words.iter().map(|word| word.to_vec()).collect()
}

impl Fix {
    /// The command must answer this; nothing and null are the same.
    pub(super) fn check(mut self, words: &[&[u8]], answer: &[u8]) -> Self {
        self.checks.push((command(words), answer.to_vec()));
        self
    }

    /// Nothing must be in this hash for the job.
    pub(super) fn absent(self, key: &str, field: &[u8]) -> Self {
        self.check(&[b"HEXISTS", key.as_bytes(), field], b"0")
    }

    /// The hash must have something for the job.
    pub(super) fn present(self, key: &str, field: &[u8]) -> Self {
        self.check(&[b"HEXISTS", key.as_bytes(), field], b"1")
    }

    pub(super) fn write(mut self, words: &[&[u8]]) -> Self {
        self.writes.push(command(words));
        self
    }
}

/// One round of repairs. It begins before the first look: a round that begins later ends it,
/// because what it is about may be put right then.
#[derive(Debug)]
pub(super) struct Round {
    word: [u8; 16],
    step: u64,
}

impl Round {
    pub(super) async fn begin(link: &Link, keys: &Keys) -> Result<Self, Error> {
        let mut round = Self { word: *ClaimToken::random().as_bytes(), step: 0 };
        round.make_some(link, keys, &[]).await?;
        Ok(round)
    }

    /// Makes the repairs whose checks hold.
    async fn make_some(&mut self, link: &Link, keys: &Keys, fixes: &[Fix]) -> Result<(), Error> {
        let mut cmd = scripts::repair.call(keys, 2 + fixes.len() * 16, fixes.len() * 512);
        cmd.arg(&self.word[..]).arg(self.step);
        let add = |cmd: &mut redis::Cmd, words: &Command| {
            cmd.arg(words.len());
            for word in words {
                cmd.arg(word.as_slice());
            }
        };
        for fix in fixes {
            cmd.arg(fix.checks.len());
            for (words, answer) in &fix.checks {
                add(&mut cmd, words);
                cmd.arg(answer.as_slice());
            }
            cmd.arg(fix.writes.len());
            fix.writes.iter().for_each(|words| add(&mut cmd, words));
        }
        self.step += 1;
        match store::one(link, Call::script(&scripts::repair, cmd), Repeat::Freely).await? {
            Value::Int(0..) => Ok(()),
            _ => Err(Error::Unavailable(
                "another audit has begun to repair the same store: try again when it is done"
                    .to_owned(),
            )),
        }
    }
}

/// Where findings go. Repairs are made as they come, so that nobody has to remember many.
pub(super) struct Findings<'a> {
    looker: Looker<'a>,
    /// If repairs are to be made.
    round: Option<Round>,
    fixes: Vec<Fix>,
    /// Whether there was anything to repair.
    has_fixes: bool,
    violations: BTreeMap<Name, Violation>,
}

/// Which violation it is: of which job, and what.
pub(super) type Name = (Option<JobId>, String);

impl<'a> Findings<'a> {
    pub(super) async fn begin(looker: Looker<'a>, repair: bool) -> Result<Self, Error> {
        let round = match repair {
            true => Some(Round::begin(looker.link, looker.keys).await?),
            false => None,
        };
        let (fixes, violations) = (Vec::new(), BTreeMap::new());
        Ok(Self { looker, round, fixes, has_fixes: false, violations })
    }

    /// Each violation is kept once: a job may be looked at by several ways.
    pub(super) async fn add(&mut self, found: Vec<Finding>) -> Result<(), Error> {
        for Finding { violation, fix } in found {
            let name = (violation.job, violation.what.clone());
            if self.violations.insert(name, violation).is_none() && self.round.is_some() {
                self.fixes.extend(fix);
            }
        }
        match self.fixes.len() >= FIXES_MAX {
            true => self.make_fixes().await,
            false => Ok(()),
        }
    }

    async fn make_fixes(&mut self) -> Result<(), Error> {
        let Some(round) = &mut self.round else { return Ok(()) };
        for fixes in self.fixes.chunks(FIXES_MAX) {
            self.has_fixes = true;
            round.make_some(self.looker.link, self.looker.keys, fixes).await?;
        }
        self.fixes.clear();
        Ok(())
    }

    /// What was found, and whether repairs were tried.
    pub(super) async fn end(mut self) -> Result<(BTreeMap<Name, Violation>, bool), Error> {
        self.make_fixes().await?;
        Ok((self.violations, self.has_fixes))
    }
}
