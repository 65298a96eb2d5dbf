//! What the machine can do to a process: file systems that are too small, limits, system calls that fail.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{is_root, skipped, tool};

/// A file system of its own for the folder of a store; it goes with its owner.
pub struct Mount(PathBuf);

impl Mount {
    /// A file system in memory with these mount options; nothing where that is not allowed.
    pub fn at(folder: &Path, options: &str) -> Option<Self> {
        if !is_root() {
            skipped("mounting a file system needs root");
            return None;
        }
        std::fs::create_dir_all(folder).expect("our own folder");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder).status();
        if !mounted.is_ok_and(|status| status.success()) {
            skipped("this machine lets root mount nothing");
            return None;
        }
        Some(Self(folder.to_owned()))
    }

    /// Uses up all space; what gives it back.
    pub fn fill(&self) -> Filler {
        let path = self.0.join("filler");
        let mut file = File::create(&path).expect("a file");
        for size in [64 << 10, 4 << 10] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
        Filler(vec![path])
    }

    /// Uses up all inodes; what gives them back.
    pub fn clutter(&self) -> Filler {
        let files = (0..).map(|number| self.0.join(format!("clutter-{number}")));
        Filler(files.take_while(|path| File::create(path).is_ok()).collect())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What uses something up.
pub struct Filler(Vec<PathBuf>);

impl Drop for Filler {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// System calls of a process that fail for as long as this lives.
pub struct Fault(Child);

impl Fault {
    /// From now on these calls (`fdatasync`, `pwritev,pwrite64`) give this error; nothing where that cannot be done.
    pub fn inject(pid: u32, calls: &str, error: &str) -> Option<Self> {
        let strace = tool("strace")?;
        let mut command = Command::new(strace);
        command.args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
        command.args(["-e", &format!("inject={calls}:error={error}"), "-p", &pid.to_string()]);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("strace starts");
        let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        match said.next() {
            Some(line) if line.contains("attached") => {
                // What else it says must not fill the pipe.
                std::thread::spawn(move || said.for_each(drop));
                Some(Self(child))
            }
            other => {
                let _ = child.wait();
                skipped(&format!("strace cannot attach to a process here: {other:?}"));
                None
            }
        }
    }
}

impl Drop for Fault {
    /// Lets go of the process; strace killed at once would leave its threads stopped.
    fn drop(&mut self) {
        let _ = Command::new("kill").arg("-INT").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// How many files a process has open.
pub fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Sets how many files a process may have open; whether that could be done.
pub fn limit_files(pid: u32, most: usize) -> bool {
    let Some(prlimit) = tool("prlimit") else { return false };
    let limit = format!("--nofile={most}:20000");
    let mut command = Command::new(prlimit);
    command.args(["--pid", &pid.to_string(), &limit]).stderr(Stdio::null());
    if is_root() {
        // Root without CAP_SYS_RESOURCE may not; the process's own user may.
        command.uid(identity(pid, "Uid:")).gid(identity(pid, "Gid:"));
    }
    let set = command.status();
    let set = set.is_ok_and(|status| status.success());
    if !set {
        skipped("prlimit may not change the limits of another process here");
    }
    set
}

/// Who a process is.
fn identity(pid: u32, which: &str) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("the kernel tells");
    line.split_whitespace().next().and_then(|id| id.parse().ok()).expect("a number")
}

/// Memory of a process that is really there, in octets.
pub fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The most of it that there ever was.
pub fn most_resident(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("the kernel tells");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}
