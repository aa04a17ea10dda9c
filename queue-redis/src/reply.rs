//! Reading the scripts' replies.

use std::time::Duration;

use queue_core::{Error, JobId, Timestamp};
use redis::Value;

/// A reply that is not what its script answers.
pub(crate) fn unexpected(what: &str) -> Error {
    Error::Corrupt(format!("unexpected reply: {what}"))
}

pub(crate) fn array(value: Value) -> Result<Vec<Value>, Error> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(unexpected("not a list")),
    }
}

/// A list for which the script answers nothing if it has no elements.
pub(crate) fn list(value: Value) -> Result<Vec<Value>, Error> {
    match value {
        Value::Nil => Ok(Vec::new()),
        value => array(value),
    }
}

pub(crate) fn string(value: Value) -> Result<String, Error> {
    String::from_utf8(bytes(value)?).map_err(|_| unexpected("not a text"))
}

/// An answer to `TIME`: the server's clock, since 1970.
pub(crate) fn time(value: Value) -> Result<Duration, Error> {
    let mut parts = Items::of(value)?;
    let seconds = decimal(&parts.bytes()?);
    Ok(Duration::from_secs(seconds) + Duration::from_micros(decimal(&parts.bytes()?)))
}

/// A number as a text; 0 if it is none.
pub(crate) fn decimal(bytes: &[u8]) -> u64 {
    String::from_utf8_lossy(bytes).parse().unwrap_or(0)
}

/// The next items of a reply, in order.
#[derive(Debug)]
pub(crate) struct Items(std::vec::IntoIter<Value>);

impl Items {
    pub(crate) fn of(value: Value) -> Result<Self, Error> {
        Ok(Self(array(value)?.into_iter()))
    }

    /// Of one that may be its first item alone.
    pub(crate) fn of_first(value: Value) -> Result<Self, Error> {
        match value {
            Value::Array(items) => Ok(Self(items.into_iter())),
            first => Ok(Self(vec![first].into_iter())),
        }
    }

    pub(crate) fn value(&mut self) -> Result<Value, Error> {
        self.0.next().ok_or_else(|| unexpected("too short"))
    }

    pub(crate) fn bytes(&mut self) -> Result<Vec<u8>, Error> {
        bytes(self.value()?)
    }

    /// A number; negative ones are not answered but as "none".
    pub(crate) fn number(&mut self) -> Result<Option<u64>, Error> {
        match self.value()? {
            Value::Int(number) => Ok(u64::try_from(number).ok()),
            _ => Err(unexpected("not a number")),
        }
    }

    pub(crate) fn count(&mut self) -> Result<u64, Error> {
        self.number()?.ok_or_else(|| unexpected("a negative number"))
    }

    pub(crate) fn timestamp(&mut self) -> Result<Timestamp, Error> {
        self.count().map(Timestamp::from_ms)
    }

    pub(crate) fn flag(&mut self) -> Result<bool, Error> {
        Ok(self.count()? == 1)
    }

    /// Job ids, joined to one string.
    pub(crate) fn ids(&mut self) -> Result<Vec<JobId>, Error> {
        ids(&self.bytes()?)
    }

    /// What is left.
    pub(crate) fn rest(self) -> impl Iterator<Item = Value> {
        self.0
    }
}

pub(crate) fn bytes(value: Value) -> Result<Vec<u8>, Error> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        Value::Nil => Ok(Vec::new()),
        _ => Err(unexpected("not a string")),
    }
}

pub(crate) fn id(bytes: &[u8]) -> Result<JobId, Error> {
    let bytes: [u8; 16] = bytes.try_into().map_err(|_| unexpected("not a job id"))?;
    Ok(JobId::from_bytes(bytes))
}

pub(crate) fn ids(bytes: &[u8]) -> Result<Vec<JobId>, Error> {
    bytes.chunks(16).map(id).collect()
}
