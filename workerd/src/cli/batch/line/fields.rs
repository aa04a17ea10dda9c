//! The fields of a line, taken out one by one, so that what is wrong with one is told with its name
//! and with what to write.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::display::shortened;

/// What is left of the fields.
#[derive(Debug)]
pub(super) struct Fields<'a>(Vec<(String, &'a RawValue)>);

/// The most characters of a wrong value that are shown.
const SHOWN_MAX_CHARS: usize = 60;

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OfObject;
        impl<'de> Visitor<'de> for OfObject {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields<'de>, M::Error> {
                let mut fields: Vec<(String, &RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry()? {
                    if fields.iter().any(|(there, _)| *there == name) {
                        return Err(M::Error::custom(format!("{name} is there twice; keep one")));
                    }
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(OfObject)
    }
}

impl<'a> Fields<'a> {
    /// # Errors
    /// Why it is not an object.
    pub(super) fn of(text: &'a [u8]) -> Result<Self, String> {
        if !text.starts_with(b"{") {
            return Err("is no JSON object; write one such as \
                        {\"kind\":\"report.render\",\"payload\":{}}"
                .to_owned());
        }
        // Without the place in terms of a text that has one line only.
        serde_json::from_slice(text)
            .map_err(|error| error.to_string().replace(" at line 1 column ", ", at column "))
    }

    /// Whether it was not taken yet.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(there, _)| there == name)
    }

    /// # Errors
    /// If there is any that was not taken.
    pub(super) fn end(self, known: &str) -> Result<(), String> {
        match self.0.first() {
            Some((name, _)) => Err(format!("unknown field `{name}`; there are {known}")),
            None => Ok(()),
        }
    }

    /// The value as it was written.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let index = self.0.iter().position(|(there, _)| there == name)?;
        Some(self.0.swap_remove(index).1)
    }

    /// A value of a type; none if it is null or not there.
    fn typed<T: serde::de::DeserializeOwned>(
        &mut self,
        name: &str,
        wanted: impl fmt::Display,
    ) -> Result<Option<T>, String> {
        let Some(raw) = self.take(name) else { return Ok(None) };
        serde_json::from_str(raw.get()).map_err(|_| {
            let shown = shortened(raw.get(), SHOWN_MAX_CHARS);
            format!("{name}: {shown} is not possible; write {wanted}")
        })
    }

    /// # Errors
    /// If it is no text.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        self.typed(name, "a text")
    }

    /// A text that is something else.
    ///
    /// # Errors
    /// If it is no text, or `read` refuses it.
    pub(super) fn read<T, E: fmt::Display>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, String> {
        let text = self.text(name)?;
        text.map(|text| read(&text)).transpose().map_err(|e| format!("{name}: {e}"))
    }

    /// # Errors
    /// If it is no list of texts.
    pub(super) fn texts(&mut self, name: &str) -> Result<Vec<String>, String> {
        Ok(self.typed(name, "a list of texts such as [\"tenant:acme\"]")?.unwrap_or_default())
    }

    /// # Errors
    /// If it is no object of texts.
    pub(super) fn texts_by_name(&mut self, name: &str) -> Result<BTreeMap<String, String>, String> {
        Ok(self.typed(name, "an object of texts such as {\"trace\":\"7\"}")?.unwrap_or_default())
    }

    /// # Errors
    /// If it is no whole number in these bounds.
    pub(super) fn number<T: TryFrom<u64>>(
        &mut self,
        name: &str,
        min: u64,
        max: u64,
    ) -> Result<Option<T>, String> {
        let wanted = match max {
            u64::MAX => "a whole number".to_owned(),
            _ => format!("a whole number from {min} to {max}"),
        };
        let number: Option<u64> = self.typed(name, &wanted)?;
        let number = number.map(|number| {
            let fits = (min..=max).contains(&number);
            let number_of_type = fits.then(|| T::try_from(number).ok()).flatten();
            number_of_type
                .ok_or_else(|| format!("{name}: {number} is not possible; write {wanted}"))
        });
        number.transpose()
    }
}
