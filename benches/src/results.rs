//! Figures of several rounds, as a table and as JSON.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Everything that one run has measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// What was measured on: day, processors, versions.
    pub about: Vec<(String, String)>,
    /// In the order in which they were measured first.
    pub figures: Vec<Figure>,
}

/// One figure, with its value in each round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Of what.
    pub unit: String,
    /// One value for each round.
    pub values: Vec<f64>,
}

impl Figure {
    /// The middle value; the mean of the two middle ones of an even number.
    #[must_use]
    pub fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    fn range(&self) -> (f64, f64) {
        let fold = |first, pick: fn(f64, f64) -> f64| self.values.iter().copied().fold(first, pick);
        (fold(f64::INFINITY, f64::min), fold(f64::NEG_INFINITY, f64::max))
    }
}

impl Results {
    /// Says something about the run.
    pub fn tell(&mut self, what: &str, value: impl fmt::Display) {
        self.about.push((what.to_owned(), value.to_string()));
    }

    /// Adds the value of one round, and prints it, so that a long run can be followed.
    pub fn add(&mut self, name: &str, unit: &str, value: f64) {
        eprintln!("  {name:<58} {} {unit}", Shown(value));
        match self.figures.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.values.push(value),
            None => self.figures.push(Figure {
                name: name.to_owned(),
                unit: unit.to_owned(),
                values: vec![value],
            }),
        }
    }

    /// The last value of a figure.
    #[must_use]
    pub fn latest(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name)?.values.last().copied()
    }

    /// Adds the ratio of two figures of this round, if both were measured.
    pub fn add_ratio(&mut self, name: &str, of: &str, to: &str) {
        if let (Some(of), Some(to)) = (self.latest(of), self.latest(to)) {
            self.add(name, "x", of / to);
        }
    }

    /// Writes them as JSON.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, value) in &self.about {
            writeln!(f, "{what}: {value}")?;
        }
        writeln!(f, "{:<60} {:>10} {:>10} {:>10}", "", "median", "lowest", "highest")?;
        for figure in &self.figures {
            let (low, high) = figure.range();
            let (name, unit) = (&figure.name, &figure.unit);
            let [median, low, high] = [figure.median(), low, high].map(Shown);
            writeln!(f, "{name:<60} {median:>10} {low:>10} {high:>10} {unit}")?;
        }
        Ok(())
    }
}

/// With as many digits as mean something.
struct Shown(f64);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            large if large >= 100.0 => 0,
            medium if medium >= 10.0 => 1,
            1.0..10.0 => 2,
            _ => 3,
        };
        f.pad(&format!("{:.digits$}", self.0))
    }
}
