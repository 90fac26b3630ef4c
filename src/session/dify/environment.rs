//! How a plugin is to run, by the variables of Dify's own SDK.

use std::fmt;
use std::time::Duration;

/// How a plugin runs: by what, to where, and with which times.
///
/// `Debug` does not show the key.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use sessile::session::dify::Environment;
///
/// let environment = Environment::remote("localhost:5003", "a key")
///     .invocation_timeout(Duration::from_secs(60))
///     .max_workers(200);
/// assert!(!format!("{environment:?}").contains("a key"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Environment {
    pub(super) install: Install,
    pub(super) heartbeat: Duration,
    pub(super) invocation_timeout: Duration,
    pub(super) workers: Option<usize>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Install {
    /// Over standard input and output.
    Local,
    Remote {
        address: String,
        key: String,
    },
}

/// A variable that cannot be used.
///
/// # Examples
///
/// ```
/// use sessile::session::dify::Environment;
///
/// let variables = |name: &str| (name == "MAX_WORKER").then(|| "many".to_owned());
/// let error = Environment::from_variables(variables).unwrap_err();
/// assert_eq!(error.to_string(), "the variable MAX_WORKER is no number of threads");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentError {
    variable: &'static str,
    what: &'static str,
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the variable {} {}", self.variable, self.what)
    }
}

impl std::error::Error for EnvironmentError {}

impl Environment {
    /// Over TCP, to a daemon's port for remote plugins at `host:port`.
    pub fn remote(address: impl Into<String>, key: impl Into<String>) -> Self {
        Self::new(Install::Remote { address: address.into(), key: key.into() })
    }

    /// Over this process's standard input and output, as a daemon starts it.
    #[must_use]
    pub fn local() -> Self {
        Self::new(Install::Local)
    }

    fn new(install: Install) -> Self {
        let (heartbeat, invocation_timeout) = (Duration::from_secs(10), Duration::from_secs(250));
        Self { install, heartbeat, invocation_timeout, workers: None }
    }

    /// How often the plugin says that it is alive. Default: 10 s.
    #[must_use]
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.heartbeat = every;
        self
    }

    /// How long an invocation waits for each answer. Default: 250 s.
    #[must_use]
    pub fn invocation_timeout(mut self, wait: Duration) -> Self {
        self.invocation_timeout = wait;
        self
    }

    /// How many threads handle requests at most, whatever [`Plugin::threads`](super::Plugin::threads)
    /// says.
    #[must_use]
    pub fn max_workers(mut self, threads: usize) -> Self {
        self.workers = Some(threads);
        self
    }

    /// As this process's variables say: `INSTALL_METHOD` (`local`, the default, or `remote`),
    /// `REMOTE_INSTALL_URL` (`host:port`) or `REMOTE_INSTALL_HOST` and `REMOTE_INSTALL_PORT`,
    /// `REMOTE_INSTALL_KEY`, `HEARTBEAT_INTERVAL` and `MAX_INVOCATION_TIMEOUT`, both in seconds, and
    /// `MAX_WORKER`. `MAX_REQUEST_TIMEOUT` is for `serverless` only, which there is not.
    ///
    /// # Errors
    ///
    /// If one of them cannot be used.
    pub fn from_process() -> Result<Self, EnvironmentError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`from_process`](Self::from_process), by variables from elsewhere.
    ///
    /// # Errors
    ///
    /// If one of them cannot be used.
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, EnvironmentError> {
        let error = |variable, what| EnvironmentError { variable, what };
        let get = |name| variable(name).filter(|value| !value.is_empty());
        let seconds = |name, default: Duration| match get(name) {
            None => Ok(default),
            Some(value) => {
                let seconds = value.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
                let seconds = seconds.filter(|seconds| !seconds.is_zero());
                seconds.ok_or(error(name, "is no number of seconds"))
            }
        };
        let install = match get("INSTALL_METHOD").as_deref() {
            None | Some("local") => Install::Local,
            Some("remote") => {
                let address = match get("REMOTE_INSTALL_URL") {
                    // The SDK takes an address with a scheme as well.
                    Some(url) => {
                        url.rsplit_once("://").map_or(url.as_str(), |(_, at)| at).to_owned()
                    }
                    None => {
                        let host = get("REMOTE_INSTALL_HOST").unwrap_or("localhost".to_owned());
                        let port = get("REMOTE_INSTALL_PORT").unwrap_or("5003".to_owned());
                        format!("{host}:{port}")
                    }
                };
                let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
                if !matches!(port, Some(Ok(_))) {
                    return Err(error("REMOTE_INSTALL_URL", "is not a host, a colon and a port"));
                }
                Install::Remote { address, key: get("REMOTE_INSTALL_KEY").unwrap_or_default() }
            }
            Some("serverless") => {
                return Err(error(
                    "INSTALL_METHOD",
                    "asks for `serverless`, which there is not here",
                ));
            }
            Some(_) => return Err(error("INSTALL_METHOD", "is neither `local` nor `remote`")),
        };
        let workers = match get("MAX_WORKER").map(|value| value.parse::<usize>()) {
            None => None,
            Some(Ok(workers @ 1..)) => Some(workers),
            Some(_) => return Err(error("MAX_WORKER", "is no number of threads")),
        };
        let defaults = Self::new(install);
        Ok(Self {
            workers,
            heartbeat: seconds("HEARTBEAT_INTERVAL", defaults.heartbeat)?,
            invocation_timeout: seconds("MAX_INVOCATION_TIMEOUT", defaults.invocation_timeout)?,
            ..defaults
        })
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match &self.install {
            Install::Local => "standard input and output",
            Install::Remote { address, .. } => address,
        };
        f.debug_struct("Environment")
            .field("address", &address)
            .field("heartbeat", &self.heartbeat)
            .field("invocation_timeout", &self.invocation_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, EnvironmentError> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Environment::from_variables(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_sdks_variables_are_read_as_the_sdk_reads_them() {
        assert_eq!(read(&[]).unwrap(), Environment::local());
        let remote = read(&[("INSTALL_METHOD", "remote"), ("REMOTE_INSTALL_KEY", "k")]).unwrap();
        assert_eq!(remote, Environment::remote("localhost:5003", "k"));
        let remote = read(&[
            ("INSTALL_METHOD", "remote"),
            ("REMOTE_INSTALL_URL", "daemon:7"),
            ("REMOTE_INSTALL_HOST", "ignored"),
            ("HEARTBEAT_INTERVAL", "0.5"),
            ("MAX_INVOCATION_TIMEOUT", "3"),
        ]);
        let expected = Environment::remote("daemon:7", "")
            .heartbeat(Duration::from_millis(500))
            .invocation_timeout(Duration::from_secs(3));
        assert_eq!(remote.unwrap(), expected);
    }

    #[test]
    fn a_bad_variable_is_named_and_the_key_is_not_shown() {
        for bad in [
            ("INSTALL_METHOD", "carrier pigeon"),
            ("INSTALL_METHOD", "serverless"),
            ("HEARTBEAT_INTERVAL", "-1"),
            ("HEARTBEAT_INTERVAL", "0"),
            ("MAX_INVOCATION_TIMEOUT", "soon"),
            ("MAX_WORKER", "many"),
        ] {
            let error = read(&[bad]).unwrap_err().to_string();
            assert!(
                error.contains(bad.0) && !error.contains(bad.1) || bad.1 == "serverless",
                "{error}"
            );
        }
        read(&[("INSTALL_METHOD", "remote"), ("REMOTE_INSTALL_URL", "nowhere")]).unwrap_err();
        assert!(!format!("{:?}", Environment::remote("a:1", "hunter2")).contains("hunter2"));
    }
}
