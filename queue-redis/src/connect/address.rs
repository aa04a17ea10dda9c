//! From a URL to an address, and what to say there first.

use std::time::Duration;

use queue_core::Error;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, Cmd, IntoConnectionInfo, RedisConnectionInfo};

/// Where the server is, and the commands that each connection begins with.
///
/// The client would send these by itself, but calls every refusal of a password a wrong password,
/// be it that the server has no room for one more client.
pub(super) struct Address {
    pub(super) client: Client,
    pub(super) greeting: Vec<Cmd>,
}

impl Address {
    /// Reads the URL; connects to nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is not one of a Redis server. The message never holds the URL.
    pub(super) fn new(url: &str) -> Result<Self, Error> {
        let scheme = url.split("://").next().unwrap_or_default();
        match scheme {
            "rediss" | "valkeys" => use_tls()?,
            "redis" | "valkey" | "redis+unix" | "valkey+unix" | "unix" => {}
            _ => {
                let known = "redis://, rediss:// and redis+unix://";
                let why = format!("the URL is not one of Redis: {known} are known");
                return Err(Error::Refused(why));
            }
        }
        let refused = |error: redis::RedisError| Error::Refused(error.to_string());
        let info = url.into_connection_info().map_err(refused)?;
        let greeting = greeting(info.redis_settings());
        let bare = RedisConnectionInfo::default().set_skip_set_lib_name();
        let info = info.set_tcp_settings(tcp_settings()).set_redis_settings(bare);
        Ok(Self { client: Client::open(info).map_err(refused)?, greeting })
    }
}

fn greeting(settings: &RedisConnectionInfo) -> Vec<Cmd> {
    let mut greeting = Vec::new();
    if let Some(password) = settings.password() {
        let mut auth = redis::cmd("AUTH");
        auth.arg(settings.username()).arg(password);
        greeting.push(auth);
    }
    if settings.db() != 0 {
        let mut select = redis::cmd("SELECT");
        select.arg(settings.db());
        greeting.push(select);
    }
    greeting
}

/// Without these a small answer waits for an ACK, and a connection whose other end vanished
/// without a word looks alive for hours.
fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(Duration::from_secs(10));
    settings
}

#[cfg(feature = "tls")]
fn use_tls() -> Result<(), Error> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails only if somebody else has just installed one, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    Ok(())
}

#[cfg(not(feature = "tls"))]
fn use_tls() -> Result<(), Error> {
    Err(Error::Unsupported("rediss:// needs the feature `tls` of queue-redis".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_in_no_message() {
        let wrong = [
            "http://user:hunter2@localhost",
            "redis://user:hunter2@localhost:99999",
            "redis://user:hunter2@localhost/no-number",
            "redis://user:hunter2@0.0.0.0/",
        ];
        for url in wrong {
            let error = Address::new(url).err().unwrap().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn each_connection_says_who_it_is_and_goes_to_its_database() {
        let said = |url: &str| -> Vec<String> {
            let greeting = Address::new(url).ok().unwrap().greeting;
            let text = |cmd: &Cmd| String::from_utf8(cmd.get_packed_command()).unwrap();
            let words = |text: String| {
                let word = |line: &&str| !line.starts_with(['*', '$']);
                text.lines().filter(word).collect::<Vec<_>>().join(" ")
            };
            greeting.iter().map(text).map(words).collect()
        };
        assert_eq!(said("redis://localhost"), Vec::<String>::new());
        assert_eq!(said("redis://:pass@localhost"), ["AUTH pass"]);
        assert_eq!(said("redis://user:pass@localhost/3"), ["AUTH user pass", "SELECT 3"]);
        assert_eq!(said("unix:///tmp/a?db=2&pass=x"), ["AUTH x", "SELECT 2"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_vanished_peer_is_noticed() {
        let settings = tcp_settings();
        assert!(settings.nodelay());
        assert!(settings.keepalive().is_some());
        assert_eq!(settings.user_timeout(), Some(Duration::from_secs(10)));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn tls_has_a_crypto_provider_even_if_the_program_installed_none() {
        Address::new("rediss://localhost:6379").ok().unwrap();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }
}
