//! What the environment and the flags say, over what the file says.

use std::ffi::OsString;

/// A setting that the environment, and for some also a flag, can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting {
    Url,
    Namespace,
    Durability,
    Concurrency,
    Lease,
    ShutdownGrace,
    Listen,
    LogFormat,
    LogLevel,
}

impl Setting {
    pub(super) const ALL: [Self; 9] = [
        Self::Url,
        Self::Namespace,
        Self::Durability,
        Self::Concurrency,
        Self::Lease,
        Self::ShutdownGrace,
        Self::Listen,
        Self::LogFormat,
        Self::LogLevel,
    ];

    pub(super) const fn variable(self) -> &'static str {
        match self {
            Self::Url => "WORKERD_URL",
            Self::Namespace => "WORKERD_NAMESPACE",
            Self::Durability => "WORKERD_DURABILITY",
            Self::Concurrency => "WORKERD_CONCURRENCY",
            Self::Lease => "WORKERD_LEASE",
            Self::ShutdownGrace => "WORKERD_SHUTDOWN_GRACE",
            Self::Listen => "WORKERD_HTTP_LISTEN",
            Self::LogFormat => "WORKERD_LOG_FORMAT",
            Self::LogLevel => "WORKERD_LOG_LEVEL",
        }
    }

    const fn flag(self) -> &'static str {
        match self {
            Self::Url => "--url",
            Self::Namespace => "--namespace",
            Self::Durability => "--durability",
            Self::Concurrency => "--concurrency",
            Self::Lease => "--lease",
            Self::ShutdownGrace => "--shutdown-grace",
            Self::Listen => "--listen",
            Self::LogFormat => "--log-format",
            Self::LogLevel => "--log-level",
        }
    }
}

/// The layers over the file, the strongest last.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    given: Vec<Given>,
}

/// A text for a setting and where it came from.
#[derive(Debug)]
pub(super) struct Given {
    setting: Setting,
    pub(super) text: String,
    pub(super) place: String,
}

impl Layers {
    /// The layer of the environment; `variable` looks one up. An empty variable says nothing.
    pub(crate) fn of_environment(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut layers = Self::default();
        for setting in Setting::ALL {
            let Some(text) = variable(setting.variable()).filter(|text| !text.is_empty()) else {
                continue;
            };
            let text = text.to_string_lossy().into_owned();
            let place = format!("the environment variable {}", setting.variable());
            layers.given.push(Given { setting, text, place });
        }
        layers
    }

    /// Puts a flag over it, if it was given.
    pub(crate) fn flag(mut self, setting: Setting, text: Option<&str>) -> Self {
        if let Some(text) = text {
            let place = setting.flag().to_owned();
            self.given.push(Given { setting, text: text.to_owned(), place });
        }
        self
    }

    /// What was given for a setting, the strongest last.
    pub(super) fn of(&self, setting: Setting) -> impl Iterator<Item = &Given> {
        self.given.iter().filter(move |given| given.setting == setting)
    }
}
