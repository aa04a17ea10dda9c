//! Draws the pictures of `docs/performance.md` from measured figures: nothing in them is typed by
//! hand.
//!
//! ```text
//! cargo run --release -p queue-benches --bin pictures -- \
//!     --peers benches/peers/results/<day>.json --load benches/results/<day>.json --to docs/pictures
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use queue_benches::results::{Figure, Results};
use serde::Deserialize;

#[derive(Debug, Parser)]
struct Arguments {
    /// What `benches/peers/run` has written.
    #[arg(long)]
    peers: Option<PathBuf>,
    /// What `load` has written.
    #[arg(long)]
    load: Option<PathBuf>,
    /// The folder of the pictures.
    #[arg(long)]
    to: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Comparison {
    date: String,
    peers: Vec<Peer>,
}

#[derive(Debug, Deserialize)]
struct Peer {
    name: String,
    store: String,
    values: BTreeMap<String, Vec<f64>>,
}

/// A bar: its name, the median, and the lowest and highest value.
#[derive(Debug, Clone)]
struct Bar {
    name: String,
    median: f64,
    low: f64,
    high: f64,
    is_ours: bool,
}

impl Bar {
    fn new(name: &str, values: &[f64]) -> Option<Self> {
        let (name, is_ours) = (name.to_owned(), name.starts_with("ours"));
        let figure = Figure { name, unit: String::new(), values: values.to_vec() };
        let low = values.iter().copied().min_by(f64::total_cmp)?;
        let high = values.iter().copied().max_by(f64::total_cmp)?;
        Some(Self { median: figure.median(), name: figure.name, low, high, is_ours })
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut pictures = Vec::new();
    if let Some(path) = &arguments.peers {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        pictures.extend(of_peers(&serde_json::from_str(&text)?));
    }
    if let Some(path) = &arguments.load {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        pictures.extend(of_load(&serde_json::from_str(&text)?));
    }
    anyhow::ensure!(!pictures.is_empty(), "nothing to draw: name figures by --peers or --load");
    std::fs::create_dir_all(&arguments.to)?;
    for (name, picture) in pictures {
        let path = arguments.to.join(name);
        std::fs::write(&path, picture)?;
        println!("{}", path.display());
    }
    Ok(())
}

fn of_peers(comparison: &Comparison) -> Vec<(&'static str, String)> {
    let wanted = [
        ("drain-redis.svg", "redis", "drain_1_per_s", "Jobs drained a second, one worker, Redis"),
        (
            "drain-sqlite.svg",
            "sqlite",
            "drain_1_per_s",
            "Jobs drained a second, one worker, SQLite",
        ),
        (
            "server-cpu.svg",
            "redis",
            "redis_cpu_us_per_drained_1",
            "CPU of Redis for each drained job, microseconds (less is better)",
        ),
        (
            "enqueue-64.svg",
            "redis",
            "enqueue_many_per_s",
            "Jobs enqueued a second by 64 callers, Redis",
        ),
        (
            "pick-up.svg",
            "redis",
            "pick_up_p50_ms",
            "Pick-up by an idle worker, median, milliseconds (less is better)",
        ),
    ];
    let mut pictures = Vec::new();
    for (file, store, value, title) in wanted {
        let of_store = comparison.peers.iter().filter(|peer| peer.store == store);
        let bar = |peer: &Peer| Bar::new(&peer.name, peer.values.get(value)?);
        let bars: Vec<Bar> = of_store.filter_map(bar).collect();
        if !bars.is_empty() {
            pictures.push((file, chart(&format!("{title}, {}", comparison.date), &bars)));
        }
    }
    pictures
}

fn of_load(results: &Results) -> Vec<(&'static str, String)> {
    let wanted: [(&str, &str, &[&str]); 2] = [
        (
            "ratios.svg",
            "Our speed beside what the store does with the same calls and no client (1 is all)",
            &[
                "drain / its calls alone",
                "drain, records kept / its calls alone",
                "enqueue, bulk / its calls alone",
                "enqueue, one caller / bare round trip",
                "sqlite memory, bulk / by hand",
                "sqlite memory, drain / by hand",
                "sqlite fsync, bulk / by hand",
                "sqlite fsync, drain / by hand",
                "commands by workerd / bare loop",
            ],
        ),
        (
            "life.svg",
            "CPU of Redis for the whole life of a job, microseconds",
            &[
                "drain, server CPU of the whole life",
                "drain, records kept, server CPU of the whole life",
                "two limit keys, 1000 tenants, server CPU of the life",
                "two limit keys with limits, 1000 tenants, server CPU of the life",
            ],
        ),
    ];
    let mut pictures = Vec::new();
    for (file, title, names) in wanted {
        let figures = names.iter().filter_map(|name| {
            let figure = results.figures.iter().find(|figure| figure.name == *name)?;
            Bar::new(&figure.name, &figure.values)
        });
        let bars: Vec<Bar> = figures.collect();
        if !bars.is_empty() {
            pictures.push((file, chart(title, &bars)));
        }
    }
    pictures
}

const WIDTH: f64 = 920.0;
const NAMES: f64 = 390.0;
const ROW: f64 = 26.0;
const TOP: f64 = 44.0;

/// Bars with their values, and a line from the lowest to the highest.
fn chart(title: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.high).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - NAMES - 90.0) / most;
    let height = TOP + ROW * bars.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    );
    for (row, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * row as f64;
        let middle = y + ROW / 2.0;
        let (low, high) = (NAMES + bar.low * scale, NAMES + bar.high * scale);
        let color = if bar.is_ours { "#2a6f4e" } else { "#8a94a6" };
        // Writing to a string does not fail.
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{NAMES}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{color}\"/>\n\
             <line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" \
             stroke=\"black\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            NAMES - 8.0,
            middle + 4.5,
            escaped(&bar.name),
            y + 4.0,
            bar.median * scale,
            ROW - 8.0,
            high + 8.0,
            middle + 4.5,
            shown(bar.median),
        );
    }
    svg + "</svg>\n"
}

fn shown(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{large:.0}"),
        medium if medium >= 10.0 => format!("{medium:.1}"),
        small => format!("{small:.2}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_as_wide_as_its_longest_bar() {
        let bars = ["ours", "a < b"].map(|name| Bar::new(name, &[1.0, 4.0, 2.0]).unwrap());
        assert_eq!((bars[0].median, bars[0].low, bars[0].high), (2.0, 1.0, 4.0));
        assert!(bars[0].is_ours && !bars[1].is_ours);
        let picture = chart("speed", &bars);
        assert!(picture.contains("a &lt; b") && picture.contains("x2=\"830.0\""), "{picture}");
    }
}
