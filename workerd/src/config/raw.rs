//! A configuration file as a tree of tables that know their lines and keys.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Problem, Problems};

/// A file's name and text, and what was found wrong in it so far.
#[derive(Debug)]
pub(super) struct Source<'a> {
    name: &'a str,
    text: &'a str,
    problems: RefCell<Vec<(usize, Problem)>>,
}

/// Where a value stands in the file.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// With its tables, as in `worker.lease`.
    pub(super) key: String,
    line: usize,
}

impl<'a> Source<'a> {
    pub(super) fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, text, problems: RefCell::default() }
    }

    /// Parses the text.
    ///
    /// # Errors
    /// The first place that is not TOML.
    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'a>>, Problems> {
        DeTable::parse(self.text).map_err(|error| {
            let line = self.line(&error.span().unwrap_or_default());
            let message = format!("this is not TOML: {}", error.message());
            Problems(vec![Problem { place: format!("{}:{line}", self.name), message }])
        })
    }

    /// Lines are counted from 1.
    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// Notes something that is wrong in the file.
    pub(super) fn wrong(&self, place: &Place, message: impl Into<String>) {
        let problem = Problem {
            place: format!("{}:{}: {}", self.name, place.line, place.key),
            message: message.into(),
        };
        self.problems.borrow_mut().push((place.line, problem));
    }

    /// Notes something that is wrong outside of the file, or missing in it.
    pub(super) fn wrong_elsewhere(&self, place: &str, message: impl Into<String>) {
        let problem = Problem { place: place.to_owned(), message: message.into() };
        self.problems.borrow_mut().push((usize::MAX, problem));
    }

    /// How many things were wrong so far.
    pub(super) fn problems(&self) -> usize {
        self.problems.borrow().len()
    }

    /// `value`, unless something was wrong.
    ///
    /// # Errors
    /// All that was noted, in the order of the file.
    pub(super) fn finish<T>(&self, value: Option<T>) -> Result<T, Problems> {
        let mut problems = self.problems.take();
        problems.sort_by_key(|(line, _)| *line);
        let problems: Vec<Problem> = problems.into_iter().map(|(_, problem)| problem).collect();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(Problems(problems)),
        }
    }
}

/// A table of the file. Each key is taken once; what is left in the end is unknown.
#[derive(Debug)]
pub(super) struct Table<'s, 'a> {
    source: &'s Source<'a>,
    /// The names of the tables around its keys; empty for the file itself.
    path: String,
    entries: BTreeMap<&'s str, (usize, &'s Spanned<DeValue<'a>>)>,
    /// The keys that were asked for, to name them beside an unknown one.
    known: Vec<&'static str>,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

impl<'s, 'a> Table<'s, 'a> {
    pub(super) fn new(source: &'s Source<'a>, path: &str, table: &'s DeTable<'a>) -> Self {
        let entries = table
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), (source.line(&key.span()), value)));
        Self { source, path: path.to_owned(), entries: entries.collect(), known: Vec::new() }
    }

    pub(super) fn source(&self) -> &'s Source<'a> {
        self.source
    }

    fn place(&self, key: &str, line: usize) -> Place {
        let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let quoted = format!("{key:?}");
        let key = if key.chars().all(is_bare) { key } else { &quoted };
        let key =
            if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Place { key, line }
    }

    fn take(&mut self, key: &'static str) -> Option<Found<&'s DeValue<'a>>> {
        self.known.push(key);
        let (line, value) = self.entries.remove(key)?;
        Some(Found { value: value.get_ref(), place: self.place(key, line) })
    }

    /// Takes a value that must have this form.
    fn take_as<T>(
        &mut self,
        key: &'static str,
        form: &str,
        read: impl FnOnce(&'s DeValue<'a>) -> Option<T>,
    ) -> Option<Found<T>> {
        let Found { value, place } = self.take(key)?;
        if let Some(value) = read(value) {
            return Some(Found { value, place });
        }
        let found = value.type_str();
        self.source.wrong(&place, format!("is of type {found}; write {form}"));
        None
    }

    /// Takes a string.
    pub(super) fn string(&mut self, key: &'static str, form: &str) -> Option<Found<&'s str>> {
        self.take_as(key, form, |value| value.as_str())
    }

    /// Takes a whole number, as text.
    pub(super) fn integer(&mut self, key: &'static str, form: &str) -> Option<Found<String>> {
        self.take_as(key, form, integer)
    }

    /// Takes a list.
    pub(super) fn list(
        &mut self,
        key: &'static str,
        form: &str,
    ) -> Option<Found<Vec<Item<'s, 'a>>>> {
        let source = self.source;
        let found = self.take_as(key, form, |value| value.as_array())?;
        let items = found.value.iter().map(|item| Item {
            source,
            value: item.get_ref(),
            place: Place { key: found.place.key.clone(), line: source.line(&item.span()) },
        });
        Some(Found { value: items.collect(), place: found.place })
    }

    /// Takes a table inside this one.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Self> {
        self.table_and_place(key).map(|(_, table)| table)
    }

    /// Takes a table inside this one, and says where it stands.
    pub(super) fn table_and_place(&mut self, key: &'static str) -> Option<(Place, Self)> {
        let source = self.source;
        let Found { value, place } = self.take_as(key, "a table", |value| value.as_table())?;
        let table = Table::new(source, &place.key, value);
        Some((place, table))
    }

    /// Takes a key that a later version will know.
    pub(super) fn unsupported(&mut self, key: &'static str) {
        self.refuse(key, "not supported in this version; remove it");
    }

    /// Takes a key that must not be here, and says what to do.
    pub(super) fn refuse(&mut self, key: &'static str, message: &str) {
        if let Some(Found { place, .. }) = self.take(key) {
            self.source.wrong(&place, message);
        }
        // Nobody should be told to write it.
        self.known.retain(|known| *known != key);
    }

    /// Takes all tables that are left, by their keys.
    pub(super) fn tables(mut self) -> Vec<(String, Place, Self)> {
        let mut tables = Vec::new();
        for (key, (line, value)) in std::mem::take(&mut self.entries) {
            let place = self.place(key, line);
            match value.get_ref().as_table() {
                Some(table) => {
                    let table = Table::new(self.source, &place.key, table);
                    tables.push((key.to_owned(), place, table));
                }
                None => self.source.wrong(&place, "write a table"),
            }
        }
        tables
    }

    /// Where a key that is missing would stand.
    pub(super) fn missing(&self, key: &str, place: &Place, message: &str) {
        let key = self.place(key, place.line);
        self.source.wrong(&key, message);
    }

    /// Every key that is left is unknown.
    pub(super) fn finish(self) {
        for (key, (line, _)) in &self.entries {
            let known = self.known.join(", ");
            let message = format!("unknown key; the keys here are {known}");
            self.source.wrong(&self.place(key, *line), message);
        }
    }
}

/// A setting that only the file has.
pub(super) fn setting<T, S: AsRef<str>>(
    found: Option<Found<S>>,
    source: &Source<'_>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let Found { value, place } = found?;
    parse(value.as_ref()).map_err(|e| source.wrong(&place, e)).ok()
}

fn integer(value: &DeValue<'_>) -> Option<String> {
    let integer = value.as_integer()?;
    i128::from_str_radix(integer.as_str(), integer.radix()).ok().map(|number| number.to_string())
}

/// An item of a list.
#[derive(Debug)]
pub(super) struct Item<'s, 'a> {
    source: &'s Source<'a>,
    value: &'s DeValue<'a>,
    pub(super) place: Place,
}

impl<'s, 'a> Item<'s, 'a> {
    pub(super) fn as_str(&self) -> Option<&'s str> {
        self.value.as_str()
    }

    pub(super) fn as_table(&self) -> Option<Table<'s, 'a>> {
        Some(Table::new(self.source, &self.place.key, self.value.as_table()?))
    }
}
