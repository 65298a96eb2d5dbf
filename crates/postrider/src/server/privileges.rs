//! Who the server is: started as root, it becomes an ordinary user once its sockets are open.

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Group, Uid, User, geteuid, initgroups, setgid, setuid};

use crate::config::Configuration;

/// Why the server cannot become who it should be.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegesError {
    /// Root, and nobody else to become.
    #[error("refusing to serve as root")]
    Root,
    /// There is no such user or group.
    #[error("there is no {kind} `{name}` on this system")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The user is root by another name.
    #[error("`{0}` is root by another name")]
    AlsoRoot(String),
    /// Not started as root, and not that user either.
    #[error("only root can become `{0}`")]
    NotRoot(String),
    /// The system refused.
    #[error("cannot become `{name}`: {error}")]
    Refused {
        /// The user.
        name: String,
        /// Why.
        error: nix::Error,
    },
}

/// Somebody to become.
#[derive(Clone, Debug)]
pub struct Identity {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Identity {
    /// Looks the names up; `None` if the server stays who it is.
    pub fn find(user: Option<&str>, group: Option<&str>) -> Result<Option<Self>, PrivilegesError> {
        let Some(name) = user else {
            return if geteuid().is_root() { Err(PrivilegesError::Root) } else { Ok(None) };
        };
        let unknown = |kind, name: &str| PrivilegesError::Unknown { kind, name: name.to_owned() };
        let found = User::from_name(name).ok().flatten().ok_or_else(|| unknown("user", name))?;
        let gid = match group {
            Some(group) => Group::from_name(group).ok().flatten().ok_or_else(|| unknown("group", group))?.gid,
            None => found.gid,
        };
        if found.uid.is_root() {
            return Err(PrivilegesError::AlsoRoot(name.to_owned()));
        }
        if geteuid() == found.uid {
            return Ok(None);
        }
        if !geteuid().is_root() {
            return Err(PrivilegesError::NotRoot(name.to_owned()));
        }
        Ok(Some(Self { name: name.to_owned(), uid: found.uid, gid }))
    }

    /// Gives the folder of a store to it, and makes the folder if need be.
    pub fn own(&self, folder: &std::path::Path) -> std::io::Result<()> {
        store::make_folder(folder)?;
        std::os::unix::fs::chown(folder, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
    }

    /// Becomes it, for good. Call it before there is a second thread: the system keeps identities per thread.
    pub fn assume(&self) -> Result<(), PrivilegesError> {
        let refused = |error| PrivilegesError::Refused { name: self.name.clone(), error };
        let name = std::ffi::CString::new(self.name.as_str()).map_err(|_| refused(nix::Error::EINVAL))?;
        // Groups first: whoever is not root any more cannot change them.
        initgroups(&name, self.gid).and_then(|()| setgid(self.gid)).and_then(|()| setuid(self.uid)).map_err(refused)?;
        match setuid(Uid::from_raw(0)) {
            Err(_) => Ok(()),
            // The way back must be closed.
            Ok(()) => Err(refused(nix::Error::EPERM)),
        }
    }
}

/// Who looks at the files of a configuration for `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Become {
    /// The server's user, from now on.
    User,
    /// The server's user, from the beginning.
    Already,
    /// Root, because no user is set.
    Root,
    /// Somebody else than this user, whom only root can become.
    Other(String),
}

/// Becomes the user of the configuration as the server would, for good. If there is no such user: the key that is wrong,
/// why, and what to do.
pub fn become_user(configuration: &Configuration) -> Result<Become, (&'static str, String, String)> {
    let Configuration { user, group, store, .. } = configuration;
    let told = |error: PrivilegesError| {
        let key = if matches!(error, PrivilegesError::Unknown { kind: "group", .. }) { "group" } else { "user" };
        let cure = match user.as_deref() {
            Some(name) if key == "user" => make_user(name, &store.path),
            _ => "choose one that there is".to_owned(),
        };
        (key, error.to_string(), cure)
    };
    match Identity::find(user.as_deref(), group.as_deref()) {
        Ok(None) => Ok(Become::Already),
        Ok(Some(identity)) => identity.assume().map(|()| Become::User).map_err(told),
        Err(PrivilegesError::Root) => Ok(Become::Root),
        Err(PrivilegesError::NotRoot(name)) => Ok(Become::Other(name)),
        Err(error) => Err(told(error)),
    }
}

/// The command that makes the server's user.
pub fn make_user(name: &str, store: &std::path::Path) -> String {
    format!("useradd --system --home-dir {} --shell /usr/sbin/nologin {name}", store.display())
}

/// What the server makes is its own: nobody else may read it.
pub fn keep_private() {
    umask(Mode::from_bits_truncate(0o077));
}
