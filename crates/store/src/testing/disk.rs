//! A disk in memory that forgets on power loss what was not made durable, and fails on demand.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mail::Randomness;

use crate::files::{File, Files, Space};

/// What a disk does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The sync fails; what it was to make durable is as uncertain as before.
    Sync,
    /// The write fails, perhaps after a part of it.
    Write,
    /// Names cannot be made durable.
    Names,
    /// Reading fails.
    Read,
}

/// A folder on a simulated disk; clones share it.
///
/// What is written is seen at once, but only [`File::sync`] makes it survive a power cut: of the rest, every write
/// survives, is lost or is torn by itself, in sectors of 512 octets. The same goes for names until
/// [`Files::sync_names`].
///
/// [`Disk::cut`] and [`Disk::cut_after`] turn the power off: then every operation through every handle fails and nothing
/// changes any more. [`Disk::restart`] gives the disk as the machine finds it when it starts again; the seed decides what
/// survived. A process that crashes while the machine goes on loses nothing: its successor may open the same disk.
#[derive(Clone, Debug)]
pub struct Disk {
    inner: Arc<Mutex<Inner>>,
    /// Which life of the machine this handle belongs to: after a crash, handles from before it do nothing any more.
    life: u64,
}

#[derive(Debug)]
struct Inner {
    randomness: Randomness,
    life: u64,
    capacity: u64,
    inodes: u64,
    files: BTreeMap<u64, Stored>,
    next_file: u64,
    /// The names as they are, and as they surely survive.
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    name_changes: Vec<NameChange>,
    faults: Vec<Planned>,
    /// Whether the faults wait.
    spares: bool,
    /// Whole operations until the one in which power fails, if it shall.
    fuse: Option<u64>,
    /// Whether power fails in this operation.
    is_failing: bool,
    is_off: bool,
    operations: u64,
    written: u64,
    trace: u32,
}

/// Operations that are to fail.
#[derive(Debug)]
struct Planned {
    fault: Fault,
    /// What the names of their files begin with.
    names: &'static str,
    /// How many go well before.
    after: u32,
    times: u32,
}

#[derive(Debug, Default)]
struct Stored {
    octets: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
    handles: usize,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, octets: Vec<u8> },
    Resize(usize),
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(String, u64),
    Rename(String, String),
    Remove(String),
}

/// A torn write breaks at multiples of this.
const SECTOR: usize = 512;

impl Disk {
    /// An empty disk of so many octets.
    pub fn new(capacity: u64, randomness: Randomness) -> Self {
        let inner = Inner {
            randomness,
            life: 0,
            capacity,
            inodes: 1_000_000,
            files: BTreeMap::new(),
            next_file: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            faults: Vec::new(),
            spares: false,
            fuse: None,
            is_failing: false,
            is_off: false,
            operations: 0,
            written: 0,
            trace: 0,
        };
        Self { inner: Arc::new(Mutex::new(inner)), life: 0 }
    }

    /// The power fails and comes back: the disk as the next start finds it, without the faults it had. Handles from before
    /// fail from now on.
    pub fn restart(&self, seed: u64) -> Disk {
        let mut inner = self.lock();
        inner.lose_power(&Randomness::seeded(seed));
        Disk { inner: self.inner.clone(), life: inner.life }
    }

    /// As [`Disk::restart`], with chance as it was given to the disk.
    pub fn crash(&self) -> Disk {
        let seed = self.lock().randomness.next_u64();
        self.restart(seed)
    }

    /// The power fails now.
    pub fn cut(&self) {
        self.lock().is_off = true;
    }

    /// The power fails in the middle of the operation that comes after so many others. Those that only read do not count.
    pub fn cut_after(&self, operations: u64) {
        self.lock().fuse = Some(operations);
    }

    /// Whether the power is off for this handle.
    pub fn is_off(&self) -> bool {
        let inner = self.lock();
        inner.is_off || inner.life != self.life
    }

    /// Operations so far that changed something or were to make it durable.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// A sum over all that was ever written, made, renamed, removed, resized and synced, in order: two runs that are the
    /// same have the same.
    pub fn trace(&self) -> u32 {
        self.lock().trace
    }

    /// The next `times` operations of the kind fail.
    pub fn fail(&self, fault: Fault, times: u32) {
        self.fail_at("", fault, times);
    }

    /// The next `times` operations of the kind fail on files whose names begin so.
    pub fn fail_at(&self, names: &'static str, fault: Fault, times: u32) {
        self.plan(Planned { fault, names, after: 0, times });
    }

    /// After so many operations of the kind on files whose names begin so one fails.
    pub fn fail_after(&self, names: &'static str, fault: Fault, after: u32) {
        self.plan(Planned { fault, names, after, times: 1 });
    }

    fn plan(&self, planned: Planned) {
        let mut inner = self.lock();
        inner.faults.retain(|other| other.fault != planned.fault);
        inner.faults.push(planned);
    }

    /// Whether faults are still to come.
    pub fn will_fail(&self) -> bool {
        self.lock().faults.iter().any(|planned| planned.times > 0)
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// While it spares, faults that are still to come wait: nothing fails, and none of them is used up.
    pub fn spare(&self, spares: bool) {
        self.lock().spares = spares;
    }

    /// Sets how many octets the disk has.
    pub fn set_capacity(&self, capacity: u64) {
        self.lock().capacity = capacity;
    }

    /// Sets how many inodes are free; with none, no file is made.
    pub fn set_inodes(&self, inodes: u64) {
        self.lock().inodes = inodes;
    }

    /// Octets in use.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// Octets that were ever written.
    pub fn written(&self) -> u64 {
        self.lock().written
    }

    /// Changes octets of a file behind everybody's back.
    pub fn corrupt(&self, name: &str, offset: usize, octets: &[u8]) {
        let mut inner = self.lock();
        let Some(file) = inner.names.get(name).copied() else { return };
        if let Some(stored) = inner.files.get_mut(&file) {
            for kept in [&mut stored.octets, &mut stored.durable] {
                if let Some(place) = kept.get_mut(offset..offset + octets.len()) {
                    place.copy_from_slice(octets);
                }
            }
        }
    }

    /// A file's octets.
    pub fn octets(&self, name: &str) -> Option<Vec<u8>> {
        let inner = self.lock();
        Some(inner.files.get(inner.names.get(name)?)?.octets.clone())
    }

    /// All names, those in quarantine too.
    pub fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// A copy of the disk as it is, for going back to an older state of a file.
    pub fn replace(&self, name: &str, octets: Vec<u8>) {
        let mut inner = self.lock();
        let Some(file) = inner.names.get(name).copied() else { return };
        inner.files.insert(file, Stored { durable: octets.clone(), octets, ..Stored::default() });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation, if there is power.
    fn look(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.lock();
        if inner.is_off || inner.life != self.life {
            return Err(io::Error::other("the power is off"));
        }
        Ok(inner)
    }

    /// Begins an operation that changes something.
    fn begin(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.look()?;
        inner.operations += 1;
        match &mut inner.fuse {
            Some(0) => inner.is_failing = true,
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(inner)
    }
}

impl Inner {
    /// Octets of all files; those of one that was removed count as long as somebody has it open.
    fn used(&self) -> u64 {
        self.files.values().map(|stored| stored.octets.len() as u64).sum()
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.is_failing {
            self.is_off = true;
            return Err(io::Error::other("the power fails"));
        }
        Ok(())
    }

    fn note(&mut self, what: &str, parts: &[&[u8]]) {
        let sum = crc32c::crc32c_append(self.trace, what.as_bytes());
        self.trace = parts.iter().fold(sum, |sum, part| crc32c::crc32c_append(sum, part));
    }

    fn faulty(&mut self, fault: Fault, file: Option<u64>) -> io::Result<()> {
        if self.faults.is_empty() || self.spares {
            return Ok(());
        }
        let name = self.names.iter().find(|(_, other)| Some(**other) == file).map_or("", |(name, _)| name.as_str());
        let meant = |it: &&mut Planned| it.fault == fault && name.starts_with(it.names) && it.times > 0;
        let Some(planned) = self.faults.iter_mut().find(meant) else { return Ok(()) };
        if planned.after > 0 {
            planned.after -= 1;
            return Ok(());
        }
        planned.times -= 1;
        Err(io::Error::from_raw_os_error(5))
    }

    fn lose_power(&mut self, randomness: &Randomness) {
        self.life += 1;
        (self.fuse, self.is_failing, self.is_off) = (None, false, false);
        self.faults.clear();
        let mut names = std::mem::take(&mut self.durable_names);
        for change in std::mem::take(&mut self.name_changes) {
            if randomness.below(2) == 0 {
                change.apply(&mut names);
            }
        }
        self.names = names.clone();
        self.durable_names = names;
        let reachable: Vec<u64> = self.names.values().copied().collect();
        self.files.retain(|file, _| reachable.contains(file));
        for stored in self.files.values_mut() {
            stored.handles = 0;
            stored.lose_power(randomness);
        }
    }

    fn stored(&mut self, file: u64) -> io::Result<&mut Stored> {
        self.files.get_mut(&file).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Forgets files that no name leads to and nobody has open.
    fn sweep(&mut self) {
        let mut reachable: Vec<u64> = self.names.values().chain(self.durable_names.values()).copied().collect();
        reachable.extend(self.name_changes.iter().filter_map(|change| match change {
            NameChange::Set(_, file) => Some(*file),
            NameChange::Rename(..) | NameChange::Remove(_) => None,
        }));
        self.files.retain(|file, stored| stored.handles > 0 || reachable.contains(file));
    }

    fn handle(&mut self, disk: &Disk, file: u64) -> Arc<dyn File> {
        if let Some(stored) = self.files.get_mut(&file) {
            stored.handles += 1;
        }
        Arc::new(Handle { disk: disk.clone(), file })
    }

    fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        if !change.apply(&mut self.names) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.note("name", &[format!("{change:?}").as_bytes()]);
        self.name_changes.push(change);
        Ok(())
    }
}

impl NameChange {
    /// False if there is nothing to change.
    fn apply(&self, names: &mut BTreeMap<String, u64>) -> bool {
        match self {
            NameChange::Set(name, file) => {
                names.insert(name.clone(), *file);
                true
            }
            NameChange::Rename(from, to) => match names.remove(from) {
                Some(file) => {
                    names.insert(to.clone(), file);
                    true
                }
                None => false,
            },
            NameChange::Remove(name) => names.remove(name).is_some(),
        }
    }
}

impl Stored {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.octets);
        self.changes.push(change);
    }

    fn lose_power(&mut self, randomness: &Randomness) {
        let mut octets = std::mem::take(&mut self.durable);
        for change in std::mem::take(&mut self.changes) {
            match randomness.below(3) {
                0 => {}
                1 => change.apply(&mut octets),
                _ => change.tear(&mut octets, randomness),
            }
        }
        self.octets = octets.clone();
        self.durable = octets;
    }
}

impl Change {
    fn apply(&self, into: &mut Vec<u8>) {
        match self {
            Change::Resize(len) => into.resize(*len, 0),
            Change::Write { offset, octets } => {
                if into.len() < offset + octets.len() {
                    into.resize(offset + octets.len(), 0);
                }
                into[*offset..offset + octets.len()].copy_from_slice(octets);
            }
        }
    }

    /// Applies some sectors of a write, and others not: a first part, a last part, or here and there.
    fn tear(&self, into: &mut Vec<u8>, randomness: &Randomness) {
        let Change::Write { offset, octets } = self else { return self.apply(into) };
        let (manner, cut) = (randomness.below(4), randomness.below(octets.len() + 1));
        let mut at = 0;
        while at < octets.len() {
            let end = ((offset + at) / SECTOR * SECTOR + SECTOR - offset).min(octets.len());
            let survives = match manner {
                0 => end <= cut,
                1 => at >= cut,
                2 => randomness.below(16) > 0,
                _ => randomness.below(2) == 0,
            };
            if survives {
                Change::Write { offset: offset + at, octets: octets[at..end].to_vec() }.apply(into);
            }
            at = end;
        }
    }
}

impl Files for Disk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.look()?.names.keys().filter(|name| !name.contains('/')).cloned().collect())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn File>> {
        let mut inner = self.begin()?;
        if inner.used() + len > inner.capacity || inner.inodes == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = inner.next_file;
        inner.next_file += 1;
        let mut stored = Stored::default();
        if len > 0 {
            stored.change(Change::Resize(len as usize));
        }
        inner.files.insert(file, stored);
        inner.change_names(NameChange::Set(name.into(), file))?;
        inner.finish()?;
        Ok(inner.handle(self, file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut inner = self.look()?;
        let file = *inner.names.get(name).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(inner.handle(self, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.begin()?;
        inner.change_names(NameChange::Rename(from.into(), to.into()))?;
        inner.finish()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.begin()?;
        inner.change_names(NameChange::Remove(name.into()))?;
        inner.finish()
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut inner = self.begin()?;
        inner.note("sync names", &[]);
        inner.faulty(Fault::Names, None)?;
        if !inner.is_failing {
            inner.durable_names = inner.names.clone();
            inner.name_changes.clear();
            inner.sweep();
        }
        inner.finish()
    }

    fn space(&self) -> io::Result<Space> {
        let inner = self.look()?;
        Ok(Space { bytes: inner.capacity.saturating_sub(inner.used()), inodes: inner.inodes })
    }
}

#[derive(Debug)]
struct Handle {
    disk: Disk,
    file: u64,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut inner = self.disk.lock();
        if inner.life == self.disk.life
            && let Some(stored) = inner.files.get_mut(&self.file)
        {
            stored.handles = stored.handles.saturating_sub(1);
            inner.sweep();
        }
    }
}

impl File for Handle {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.look()?.stored(self.file)?.octets.len() as u64)
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.look()?;
        inner.faulty(Fault::Read, Some(self.file))?;
        let octets = &inner.stored(self.file)?.octets;
        let found = octets.get(offset as usize..offset as usize + buffer.len());
        buffer.copy_from_slice(found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn write(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.begin()?;
        let mut octets = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        slices.iter().for_each(|slice| octets.extend_from_slice(slice));
        inner.note("write", &[&self.file.to_le_bytes(), &offset.to_le_bytes(), &octets]);
        inner.written += octets.len() as u64;
        let grown = (offset + octets.len() as u64).saturating_sub(inner.stored(self.file)?.octets.len() as u64);
        if grown > 0 && inner.used() + grown > inner.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Err(error) = inner.faulty(Fault::Write, Some(self.file)) {
            let part = inner.randomness.below(octets.len() + 1);
            let octets = octets[..part].to_vec();
            inner.stored(self.file)?.change(Change::Write { offset: offset as usize, octets });
            return Err(error);
        }
        inner.stored(self.file)?.change(Change::Write { offset: offset as usize, octets });
        inner.finish()
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.begin()?;
        inner.note("resize", &[&self.file.to_le_bytes(), &len.to_le_bytes()]);
        let grown = len.saturating_sub(inner.stored(self.file)?.octets.len() as u64);
        if grown > 0 && inner.used() + grown > inner.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.stored(self.file)?.change(Change::Resize(len as usize));
        inner.finish()
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.begin()?;
        inner.note("sync", &[&self.file.to_le_bytes()]);
        if let Err(error) = inner.faulty(Fault::Sync, Some(self.file)) {
            // As on Linux: what failed to be written counts as clean from then on, and a later sync does not try again.
            inner.forget_changes(self.file)?;
            return Err(error);
        }
        if !inner.is_failing {
            let stored = inner.stored(self.file)?;
            for change in std::mem::take(&mut stored.changes) {
                change.apply(&mut stored.durable);
            }
        }
        inner.finish()
    }
}

impl Inner {
    /// After a failed sync each change is on disk or not, as chance has it; memory shows all of them until power fails.
    fn forget_changes(&mut self, file: u64) -> io::Result<()> {
        let randomness = self.randomness.clone();
        let stored = self.stored(file)?;
        for change in std::mem::take(&mut stored.changes) {
            match randomness.below(3) {
                0 => {}
                1 => change.apply(&mut stored.durable),
                _ => change.tear(&mut stored.durable, &randomness),
            }
        }
        Ok(())
    }
}
