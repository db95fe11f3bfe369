//! A district as somebody wants it: the checked form of one entry of a manifest.

use district_protocol::layout::{PAGE_SIZE, WINDOW_SIZE_DEFAULT};
use district_protocol::rights::Rights;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::name::{HOST, Name};
use super::rules::{self, Wrong};
use super::{milliseconds, right_names};

/// Bytes of RAM where nothing else is asked for.
pub const MEMORY_DEFAULT: u64 = 16 << 20;

/// All that is needed to start a district.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Its name on this host.
    pub name: Name,
    /// Absolute path of the program, an ELF file.
    pub image: PathBuf,
    /// Bytes of RAM.
    #[serde(default = "default_memory")]
    pub memory: u64,
    /// Bytes of window.
    #[serde(default = "default_window")]
    pub window: u64,
    /// Passed to the program in its boot page.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// What happens when it ends.
    #[serde(default)]
    pub restart: Restart,
    /// Names that it may bind, for others to find as `district/name`.
    #[serde(default)]
    pub publishes: Vec<String>,
    /// What handle 1 is, if not a directory of `grants` and of the keys to publish.
    #[serde(default)]
    pub bootstrap: Option<Published>,
    /// What it finds in its directory, by name.
    #[serde(default)]
    pub grants: BTreeMap<String, Grant>,
    /// Whether, and when, checkpoints are taken; none: never.
    #[serde(default)]
    pub checkpoints: Option<Checkpoints>,
    /// Where it differs from the limits that every district has.
    #[serde(default)]
    pub limits: Limits,
}

fn default_memory() -> u64 {
    MEMORY_DEFAULT
}

fn default_window() -> u64 {
    WINDOW_SIZE_DEFAULT
}

impl Spec {
    /// A district of this name and image, with defaults for everything else and no grants.
    pub fn new(name: Name, image: PathBuf) -> Spec {
        Spec {
            name,
            image,
            memory: MEMORY_DEFAULT,
            window: WINDOW_SIZE_DEFAULT,
            arguments: Vec::new(),
            restart: Restart::default(),
            publishes: Vec::new(),
            bootstrap: None,
            grants: BTreeMap::new(),
            checkpoints: None,
            limits: Limits::default(),
        }
    }

    /// Checks the values that its type alone does not. What needs other districts is the daemon's to check.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn check(&self) -> Result<(), Wrong> {
        if !self.image.is_absolute() {
            return Err(Wrong::new(
                format!("image path {} is not absolute", self.image.display()),
                "the daemon has another working directory; send the whole path",
            ));
        }
        rules::memory(self.memory)?;
        rules::window(self.window)?;
        rules::arguments(&self.arguments)?;
        self.restart.check()?;
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.check()?;
            checkpoints.check_fit(self.memory, self.restart.policy)?;
        }
        rules::names("published names", self.publishes.len())?;
        rules::names("grants", self.grants.len())?;
        for (index, name) in self.publishes.iter().enumerate() {
            rules::published_name(name)?;
            if self.publishes[..index].contains(name) {
                return Err(Wrong::new(format!("`{name}` is published twice"), "leave one of them out"));
            }
        }
        for (name, grant) in &self.grants {
            rules::grant_name(name)?;
            if let Target::Published(published) = &grant.to {
                rules::published_name(&published.name)?;
            }
        }
        if let Some(published) = &self.bootstrap {
            rules::published_name(&published.name)?;
        }
        Ok(())
    }
}

/// When a district is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Whenever it ends by itself.
    Always,
    /// When it ends with another exit code than 0, by a fault, or with its vmm process.
    OnFailure,
    /// Only when somebody asks.
    Never,
}

impl Policy {
    /// All policies, by the names that manifests write.
    pub const NAMES: [(&'static str, Policy); 3] =
        [("always", Policy::Always), ("on-failure", Policy::OnFailure), ("never", Policy::Never)];
}

/// How a district is started again (semantics, section 11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restart {
    /// Whether at all.
    pub policy: Policy,
    /// Wait before the first restart; each further one waits twice as long.
    #[serde(with = "milliseconds", rename = "backoff_ms")]
    pub backoff: Duration,
    /// Longest wait.
    #[serde(with = "milliseconds", rename = "backoff_max_ms")]
    pub backoff_max: Duration,
    /// With this many restarts in the time `within`, it has failed.
    pub intensity: u32,
    /// See `intensity`.
    #[serde(with = "milliseconds", rename = "within_ms")]
    pub within: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Restart {
            policy: Policy::OnFailure,
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            intensity: 5,
            within: Duration::from_secs(30),
        }
    }
}

impl Restart {
    /// Checks the numbers.
    ///
    /// # Errors
    /// One is out of range, or the two back-offs contradict each other.
    pub fn check(&self) -> Result<(), Wrong> {
        rules::duration("backoff", self.backoff)?;
        rules::duration("backoff-max", self.backoff_max)?;
        rules::duration("within", self.within)?;
        if self.backoff > self.backoff_max {
            return Err(Wrong::new(
                "backoff is longer than backoff-max",
                "backoff is the first wait and backoff-max the longest",
            ));
        }
        if self.intensity == 0 {
            return Err(Wrong::new("intensity is 0", "write `policy = \"never\"` for no restart at all"));
        }
        Ok(())
    }
}

/// When checkpoints are taken of a district, beside those that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoints {
    /// So often, if the program has run meanwhile.
    #[serde(with = "milliseconds::option", rename = "every_ms", skip_serializing_if = "Option::is_none")]
    pub every: Option<Duration>,
    /// When so many pages have been written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_pages: Option<u64>,
    /// Whether it is started with fresh memory if its newest checkpoint, and the one before, make it fail.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cold_restart: bool,
}

impl Checkpoints {
    /// Checks the numbers.
    ///
    /// # Errors
    /// One is out of range.
    pub fn check(&self) -> Result<(), Wrong> {
        if let Some(every) = self.every {
            rules::duration("every", every)?;
        }
        if self.dirty_pages == Some(0) {
            return Err(Wrong::new("dirty-pages is 0", "leave it out if pages shall not be counted"));
        }
        Ok(())
    }

    /// Checks that what they say can happen in a district with so many bytes of memory and this policy.
    ///
    /// # Errors
    /// Something cannot.
    pub fn check_fit(&self, memory: u64, policy: Policy) -> Result<(), Wrong> {
        let pages = memory / PAGE_SIZE;
        if let Some(dirty) = self.dirty_pages
            && dirty > pages
        {
            let what = format!("dirty-pages of {dirty} is more than the {pages} pages that the district has");
            return Err(Wrong::new(what, "use fewer, or leave it out"));
        }
        if self.cold_restart && policy == Policy::Never {
            let what = "cold-restart says how a district is started again that never is";
            return Err(Wrong::new(what, "leave it out, or use `restart = \"on-failure\"`"));
        }
        Ok(())
    }
}

/// A name that another district publishes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The owner of the name.
    pub district: Name,
    /// The name.
    pub name: String,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.district, self.name)
    }
}

/// What a grant leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The district's own log.
    Log,
    /// The host's clock.
    Clock,
    /// The host's random numbers.
    Random,
    /// Checkpoints of the district itself, whenever it wants one.
    Checkpoint,
    /// A number.
    Number(u64),
    /// What another district publishes.
    Published(Published),
}

impl Target {
    /// What the host serves, by the names that manifests write after `host/`.
    pub const HOST_NAMES: [(&'static str, Target); 4] = [
        ("log", Target::Log),
        ("clock", Target::Clock),
        ("random", Target::Random),
        ("checkpoint", Target::Checkpoint),
    ];
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Log => write!(f, "{HOST}/log"),
            Target::Clock => write!(f, "{HOST}/clock"),
            Target::Random => write!(f, "{HOST}/random"),
            Target::Checkpoint => write!(f, "{HOST}/checkpoint"),
            Target::Number(number) => write!(f, "number {number}"),
            Target::Published(published) => write!(f, "{published}"),
        }
    }
}

/// One key that a district finds in its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// What the key leads to.
    pub to: Target,
    /// The most rights that the key has; none given: all that its owner hands out.
    #[serde(default, with = "right_names::optional", skip_serializing_if = "Option::is_none")]
    pub rights: Option<Rights>,
}

impl Grant {
    /// A grant of all rights to `to`.
    pub fn to(to: Target) -> Grant {
        Grant { to, rights: None }
    }
}

/// Limits of a district (semantics, section 10); `None`: what every district has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Keys that it holds.
    pub handles: Option<u32>,
    /// Objects that it exports.
    pub exports: Option<u32>,
    /// Bytes that it has queued at others.
    pub queued_bytes: Option<u64>,
    /// Watches.
    pub watches: Option<u32>,
    /// Bound names.
    pub bindings: Option<u32>,
    /// Frames per second.
    pub frames_per_second: Option<u32>,
    /// Calls without an answer.
    pub calls: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec::new(Name::new("a").unwrap(), PathBuf::from("/image"))
    }

    #[test]
    fn a_minimal_request_gets_the_defaults() {
        let parsed: Spec = serde_json::from_str(r#"{"name": "a", "image": "/image"}"#).unwrap();
        assert_eq!(parsed, spec());
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        let mut sent = spec();
        let published = Published { district: Name::new("b").unwrap(), name: "count".into() };
        sent.bootstrap = Some(published.clone());
        sent.grants.insert("log".into(), Grant::to(Target::Log));
        sent.grants.insert("limit".into(), Grant::to(Target::Number(u64::MAX)));
        sent.grants.insert("count".into(), Grant { to: Target::Published(published), rights: Some(Rights::CALL) });
        sent.limits.handles = Some(7);
        let text = serde_json::to_string(&sent).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), sent, "{text}");
    }

    #[test]
    fn hostile_requests_are_refused_by_type_or_by_check() {
        for bad in [
            r#"{"name": "../a", "image": "/image"}"#,
            r#"{"name": "host", "image": "/image"}"#,
            r#"{"name": "a", "image": "/image", "memory": -1}"#,
            r#"{"name": "a", "image": "/image", "surprise": 1}"#,
            r#"{"name": "a", "image": "/image", "grants": {"x": {"to": "log", "rights": ["fly"]}}}"#,
        ] {
            assert!(serde_json::from_str::<Spec>(bad).is_err(), "{bad}");
        }
        for bad in [
            r#"{"name": "a", "image": "image"}"#,
            r#"{"name": "a", "image": "/image", "memory": 1}"#,
            r#"{"name": "a", "image": "/image", "window": 1}"#,
            r#"{"name": "a", "image": "/image", "arguments": ["\u0000"]}"#,
            r#"{"name": "a", "image": "/image", "publishes": ["x", "x"]}"#,
            r#"{"name": "a", "image": "/image", "publishes": ["x/y"]}"#,
            r#"{"name": "a", "image": "/image", "grants": {"../x": {"to": "log"}}}"#,
            r#"{"name": "a", "image": "/image", "restart": {"backoff_ms": 0}}"#,
            r#"{"name": "a", "image": "/image", "restart": {"intensity": 0}}"#,
            r#"{"name": "a", "image": "/image", "bootstrap": {"district": "b", "name": ""}}"#,
        ] {
            assert!(serde_json::from_str::<Spec>(bad).unwrap().check().is_err(), "{bad}");
        }
    }
}
