//! Who the server is: started as root, it becomes an ordinary user once its sockets are open.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, setrlimit};
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
    /// Somebody's folder.
    #[error("{} is not given to `{name}`: it belongs to somebody else, holds files, and is no store", folder.display())]
    Foreign {
        /// Which.
        folder: PathBuf,
        /// The user.
        name: String,
    },
    /// The store's folder cannot be had.
    #[error("cannot give {} to the user: {error}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
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

    /// Gives the folder of a store to it, and makes the folder if need be. One that holds anything else is not given away.
    pub fn own(&self, folder: &Path) -> Result<(), PrivilegesError> {
        let failed = |error| PrivilegesError::Folder { folder: folder.to_owned(), error };
        store::make_folder(folder).map_err(failed)?;
        let opened = File::open(folder).map_err(failed)?;
        let owner = opened.metadata().map(|facts| (facts.uid(), facts.gid())).map_err(failed)?;
        let (uid, gid) = (self.uid.as_raw(), self.gid.as_raw());
        if owner == (uid, gid) {
            return Ok(());
        }
        if owner.0 != uid && !may_be_given(&opened).map_err(failed)? {
            return Err(PrivilegesError::Foreign { folder: folder.to_owned(), name: self.name.clone() });
        }
        fchown(&opened, Some(uid), Some(gid)).map_err(failed)
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

/// Whether a folder is empty, or a store's.
fn may_be_given(folder: &File) -> io::Result<bool> {
    let mut empty = true;
    // That very folder, whatever its name leads to by now.
    for entry in fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        // After a crash in the first moments there may be any one of these.
        let ours = ["segment-", "spare-", "index.redb", "tables.", "quarantine", "directory.key"];
        if ours.iter().any(|start| name.starts_with(start)) {
            return Ok(true);
        }
        // A disk of its own has the one from the beginning; the other says nothing.
        empty &= matches!(&*name, "lost+found" | "lock");
    }
    Ok(empty)
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
pub fn make_user(name: &str, store: &Path) -> String {
    format!("useradd --system --home-dir {} --shell /usr/sbin/nologin {name}", store.display())
}

/// What is in memory, passwords among it, does not get to the disk in a core dump, and nobody but root looks into it. To be
/// called after the last change of identity, which undoes it.
pub fn keep_memory_private() {
    // A server without dumps is better than none: where the system does not let us, mail goes on.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let _ = nix::sys::prctl::set_dumpable(false);
}

/// What the server makes is its own: nobody else may read it.
pub fn keep_private() {
    umask(Mode::from_bits_truncate(0o077));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_given_away_only_if_it_is_empty_or_a_store() {
        if !geteuid().is_root() {
            return println!("skipped: only root can give folders to others");
        }
        let nobody = Identity::find(Some("nobody"), None).unwrap().unwrap();
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str, file: &str| {
            let folder = root.path().join(name);
            fs::create_dir(&folder).unwrap();
            if !file.is_empty() {
                fs::write(folder.join(file), "").unwrap();
            }
            folder
        };
        let owner = |folder: &Path| fs::metadata(folder).unwrap().uid();
        for fine in [folder("empty", ""), folder("disk", "lost+found"), folder("store", "segment-00000000000000000001")]
        {
            nobody.own(&fine).unwrap();
            assert_eq!(owner(&fine), nobody.uid.as_raw());
        }
        let foreign = folder("etc", "passwd");
        assert!(matches!(nobody.own(&foreign), Err(PrivilegesError::Foreign { .. })));
        assert_eq!(owner(&foreign), 0);
        // Its own folder may hold what it likes.
        std::os::unix::fs::chown(&foreign, Some(nobody.uid.as_raw()), None).unwrap();
        nobody.own(&foreign).unwrap();
        nobody.own(&root.path().join("new")).unwrap();
        assert!(nobody.own(Path::new("/dev/null/store")).is_err());
    }
}
