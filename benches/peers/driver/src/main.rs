//! Runs our queue and its peers in turn over the same Redis and reports what each cost.

mod contestants;
mod process;
mod redis_server;
mod reference;
mod report;
mod scenarios;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

use crate::contestants::{Contestant, Missing, Store};
use crate::report::{Measured, Report};
use crate::scenarios::Settings;

#[derive(Debug, Parser)]
#[command(about)]
struct Arguments {
    /// Where `run` has built the adapters.
    #[arg(long)]
    build: PathBuf,
    /// Where the JSON goes; a file.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    settings: Settings,
    /// How often every peer has its turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only peers whose name contains one of these; our queue always runs.
    #[arg(long)]
    only: Vec<String>,
    /// Jobs of the drains that find the best concurrency of each peer; 0 takes the middle one.
    #[arg(long, default_value_t = 20_000)]
    calibration_jobs: u32,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let settings = &arguments.settings;
    let (contestants, missing) = contestants::present(&arguments.build, &arguments.only);
    for Missing { name, reason } in &missing {
        eprintln!("missing: {name}: {reason}");
    }
    let mut report = Report::new(settings, arguments.rounds, missing)?;
    for contestant in contestants {
        let (concurrency, tried) = calibrate(&contestant, settings, arguments.calibration_jobs)?;
        eprintln!("{}: {concurrency} at a time, of {tried:?}", contestant.name);
        report.peers.push(Measured::new(contestant, concurrency, tried));
    }
    for round in 1..=arguments.rounds {
        report.round()?;
        reference::measure(settings, &mut report.reference)?;
        for turn in turns(&report.peers) {
            eprintln!("round {round}: {}", report.peers[turn].contestant.name);
            scenarios::all(&mut report.peers[turn], settings);
            // Each time, so that a run that is cut short has something to show.
            report.write(&arguments.out)?;
        }
        report.print(round);
    }
    println!("\n{}", arguments.out.display());
    Ok(())
}

/// Ours, a peer, ours, the next peer: what the machine does meanwhile hits both.
fn turns(peers: &[Measured]) -> Vec<usize> {
    let mut turns = Vec::new();
    for store in [Store::Redis, Store::Sqlite] {
        let of = |ours: bool| {
            let is = move |peer: &Measured| {
                peer.contestant.store == store && peer.contestant.ours == ours
            };
            peers.iter().enumerate().filter(move |(_, peer)| is(peer)).map(|(index, _)| index)
        };
        let ours: Vec<usize> = of(true).collect();
        let others: Vec<usize> = of(false).collect();
        if others.is_empty() {
            turns.extend(&ours);
        }
        // The first of ours is the one to compare with; the other variants take turns with it.
        for (index, other) in others.iter().enumerate() {
            turns.extend(ours.first());
            turns.extend(ours.get(index + 1));
            turns.push(*other);
        }
    }
    turns
}

/// The concurrency at which one worker process drains fastest, and what each came to in jobs/s.
fn calibrate(
    contestant: &Contestant,
    settings: &Settings,
    jobs: u32,
) -> anyhow::Result<(usize, Vec<(usize, f64)>)> {
    let choices = contestant.concurrencies;
    let middle = *choices.get(choices.len() / 2).context("a contestant without concurrency")?;
    if jobs == 0 || choices.len() == 1 {
        return Ok((middle, Vec::new()));
    }
    let jobs = jobs.min(contestant.jobs_max.unwrap_or(u32::MAX));
    let mut tried = Vec::new();
    for &concurrency in choices {
        match scenarios::drain_rate(contestant, concurrency, jobs, settings) {
            Ok(rate) => tried.push((concurrency, rate.round())),
            Err(error) => eprintln!("{}, {concurrency} at a time: {error:#}", contestant.name),
        }
    }
    let best = tried.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    Ok((best.map_or(middle, |(concurrency, _)| *concurrency), tried))
}
