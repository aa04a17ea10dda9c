//! Breadth first through every state that the world can be in. What it finds first is therefore a
//! shortest way to break a promise.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use super::promises::{self, Broken};
use super::store::{Settled, Store};
use super::vocabulary::State;
use super::world::{Event, Scope, World};

/// What an exploration that found nothing has seen.
#[derive(Debug)]
pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) events: HashSet<Event, Quick>,
    /// The answers to settlements, each with the state of the job before (`None`: unknown).
    pub(crate) answers: HashSet<(Settled, Option<State>)>,
}

/// A broken promise, and the events that lead to it from the beginning.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) broken: Broken,
    pub(crate) trace: Vec<Event>,
}

/// How a state was reached: by an event from the state of that number.
struct Reached {
    from: usize,
    by: Option<Event>,
}

struct Explorer {
    scope: Scope,
    seen: HashSet<Rc<World>, Quick>,
    /// Stores whose own promises were checked.
    checked: HashSet<Store, Quick>,
    reached: Vec<Reached>,
    frontier: VecDeque<(usize, Rc<World>)>,
}

/// Goes through every state.
pub(crate) fn explore(scope: Scope) -> Result<Explored, Box<Found>> {
    let start = Rc::new(World::new(&scope));
    let mut explorer = Explorer {
        scope,
        seen: HashSet::default(),
        checked: HashSet::default(),
        reached: vec![Reached { from: 0, by: None }],
        frontier: VecDeque::from([(0, Rc::clone(&start))]),
    };
    explorer.seen.insert(start);
    let mut events = HashSet::default();
    let mut answers = HashSet::new();
    while let Some((number, world)) = explorer.frontier.pop_front() {
        for event in world.events(&scope) {
            events.insert(event);
            answers.extend(world.answer_to(&scope, &event));
            let next = world.after(&scope, &event);
            next.and_then(|next| explorer.visit(number, event, next))
                .map_err(|broken| Box::new(explorer.found(broken, number, event)))?;
        }
    }
    Ok(Explored { states: explorer.seen.len(), events, answers })
}

impl Explorer {
    fn visit(&mut self, from: usize, event: Event, world: World) -> Result<(), Broken> {
        let world = Rc::new(world);
        if !self.seen.insert(Rc::clone(&world)) {
            return Ok(());
        }
        self.check(&world)?;
        self.frontier.push_back((self.reached.len(), world));
        self.reached.push(Reached { from, by: Some(event) });
        Ok(())
    }

    fn check(&mut self, world: &World) -> Result<(), Broken> {
        let there = |job: usize| world.store.records[job].is_some();
        if !world.acknowledged.iter().all(there) {
            return Err(Broken::Lost);
        }
        if !self.checked.contains(&world.store) {
            promises::check_state(&world.store)?;
            promises::check_recovery(&world.store, &self.scope.rules, World::rescuer())?;
            self.checked.insert(world.store.clone());
        }
        Ok(())
    }

    fn found(&self, broken: Broken, mut number: usize, last: Event) -> Found {
        let mut trace = vec![last];
        while let Reached { from, by: Some(event) } = self.reached[number] {
            trace.push(event);
            number = from;
        }
        trace.reverse();
        Found { broken, trace }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} after", self.broken)?;
        self.trace.iter().try_for_each(|event| write!(f, "\n  {event:?}"))
    }
}

/// Most of the time goes into hashing, and nobody attacks these tables.
pub(crate) type Quick = BuildHasherDefault<Multiply>;

#[derive(Default)]
pub(crate) struct Multiply(u64);

impl Hasher for Multiply {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}
