//! Threads of a backend.

use queue_core::Error;

/// Starts a named thread, which ends by itself.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    match std::thread::Builder::new().name(name.to_owned()).spawn(body) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Unavailable(format!("no thread can be started: {error}"))),
    }
}
