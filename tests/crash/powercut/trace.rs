//! What strace wrote, read: the calls of one life of the server, in the order in which they happened.
//!
//! A call has two moments, its begin and its end, which are places of lines in the trace. strace stops a thread at both and
//! writes them down before it goes on, so the order of the lines is an order that the threads themselves could have seen:
//! what was caused by the end of one call begins on a later line.

use std::collections::HashMap;

/// The calls that are recorded: all that change files or names, and those that speak with peers.
pub const CALLS: &str = "openat,open,creat,close,pwritev,pwritev2,pwrite64,write,writev,ftruncate,truncate,fallocate,\
                         rename,renameat,renameat2,link,linkat,symlink,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,\
                         sync,syncfs,sync_file_range,dup,dup2,dup3,accept,accept4,connect,recvfrom,recvmsg,read,readv,\
                         sendto,sendmsg,sendfile,copy_file_range,splice,io_uring_setup";

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// The line of its begin.
    pub begin: usize,
    /// The line of its end; nothing if the process died meanwhile.
    pub end: Option<usize>,
    /// What it was.
    pub what: What,
}

/// What a call does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A path was opened as this descriptor, which is missing if the process died.
    Open {
        path: String,
        create: bool,
        truncate: bool,
        fd: Option<u64>,
    },
    Close {
        fd: u64,
    },
    Duplicate {
        from: u64,
        to: u64,
    },
    /// To a file at an offset, or to a stream.
    Write {
        fd: u64,
        offset: Option<u64>,
        octets: Vec<u8>,
    },
    Truncate {
        fd: u64,
        len: u64,
    },
    Allocate {
        fd: u64,
        end: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    MakeFolder {
        path: String,
    },
    Sync {
        fd: u64,
    },
    /// A sync that gave an error.
    FailedSync {
        fd: u64,
    },
    Accept {
        fd: u64,
    },
    Connect {
        fd: u64,
    },
    Receive {
        fd: u64,
        octets: Vec<u8>,
    },
}

/// Reads a trace whose first line is to have this number. Fails on calls that the model of the disk does not know.
pub fn read(text: &[u8], first: usize) -> Result<Vec<Call>, String> {
    let mut calls = Vec::new();
    let mut open: HashMap<&[u8], Open> = HashMap::new();
    for (line, number) in text.split(|octet| *octet == b'\n').zip(first..) {
        let Some(gap) = line.iter().position(|octet| *octet == b' ') else { continue };
        let (thread, rest) = (&line[..gap], line[gap..].trim_ascii_start());
        if rest.starts_with(b"+++") || rest.starts_with(b"---") || rest.is_empty() {
            continue;
        }
        let (text, begin) = match rest.strip_prefix(b"<... ") {
            Some(resumed) => {
                let Some(begun) = open.remove(thread) else { continue };
                let at = find(resumed, b" resumed>").ok_or_else(|| bad(number, rest))?;
                ([begun.text, &resumed[at + b" resumed>".len()..]].concat(), begun.begin)
            }
            None => (rest.to_vec(), number),
        };
        if let Some(start) = rest.strip_suffix(b"<unfinished ...>") {
            open.insert(thread, Open { text: start, begin: number });
            continue;
        }
        let result = find_last(&text, b" = ").ok_or_else(|| bad(number, rest))?;
        let (call, result) = (text[..result].trim_ascii_end(), &text[result + 3..]);
        let result = match result.first() {
            Some(b'?') => None,
            _ => Some(number_in(result).ok_or_else(|| bad(number, rest))?),
        };
        let what = understand(call, result).map_err(|why| format!("line {number}: {why}"))?;
        calls.extend(what.map(|what| Call { begin, end: result.map(|_| number), what }));
    }
    for begun in open.into_values() {
        let what =
            understand(begun.text.trim_ascii_end(), None).map_err(|why| format!("line {}: {why}", begun.begin))?;
        calls.extend(what.map(|what| Call { begin: begun.begin, end: None, what }));
    }
    calls.sort_by_key(|call| call.begin);
    Ok(calls)
}

/// A call whose end is not read yet.
struct Open<'t> {
    text: &'t [u8],
    begin: usize,
}

fn bad(number: usize, line: &[u8]) -> String {
    let shown = String::from_utf8_lossy(line.get(..200).unwrap_or(line));
    format!("line {number} of the trace makes no sense: {shown}")
}

/// A call from its text without the result; nothing if it failed or does not matter. `None` as result: it never ended.
fn understand(call: &[u8], result: Option<i64>) -> Result<Option<What>, String> {
    let Some(bracket) = call.iter().position(|octet| *octet == b'(') else { return Ok(None) };
    let name = String::from_utf8_lossy(&call[..bracket]).into_owned();
    let arguments = &call[bracket + 1..];
    let arguments = arguments.strip_suffix(b")").unwrap_or(arguments);
    let failed = result.is_some_and(|result| result < 0);
    // A connection that is still to come about fails with EINPROGRESS.
    if failed && !["connect", "fsync", "fdatasync"].contains(&name.as_str()) {
        return Ok(None);
    }
    let plain = Plain::of(arguments)?;
    let done = result.and_then(|result| usize::try_from(result).ok());
    let fd = || plain.number(0).ok_or_else(|| format!("{name} without a descriptor"));
    let path = |place: usize| plain.path(place).ok_or_else(|| format!("{name} without a path"));
    let octets = || {
        let mut octets = plain.strings.concat();
        octets.truncate(done.unwrap_or(usize::MAX));
        octets
    };
    let what = match name.as_str() {
        "openat" | "open" => {
            let flags = |flag: &str| plain.fields.iter().any(|field| field.split('|').any(|one| one == flag));
            let fd = done.map(|fd| fd as u64);
            What::Open { path: path(0)?, create: flags("O_CREAT"), truncate: flags("O_TRUNC"), fd }
        }
        "close" => What::Close { fd: fd()? },
        "dup" | "dup2" | "dup3" => match done {
            Some(to) => What::Duplicate { from: fd()?, to: to as u64 },
            None => return Ok(None),
        },
        "pwritev" | "pwrite64" => {
            What::Write { fd: fd()?, offset: plain.number(plain.fields.len() - 1), octets: octets() }
        }
        "write" | "writev" | "sendto" | "sendmsg" => What::Write { fd: fd()?, offset: None, octets: octets() },
        "ftruncate" => What::Truncate { fd: fd()?, len: plain.number(1).ok_or("ftruncate without a length")? },
        "fallocate" => match (plain.fields.get(1).map(String::as_str), plain.number(2), plain.number(3)) {
            (Some("0"), Some(offset), Some(len)) => What::Allocate { fd: fd()?, end: offset + len },
            _ => return Err("fallocate in a way that the model does not know".into()),
        },
        "rename" | "renameat" | "renameat2" => What::Rename { from: path(0)?, to: path(1)? },
        "unlink" | "unlinkat" => What::Unlink { path: path(0)? },
        "mkdir" | "mkdirat" => What::MakeFolder { path: path(0)? },
        "fsync" | "fdatasync" if failed => What::FailedSync { fd: fd()? },
        "fsync" | "fdatasync" => What::Sync { fd: fd()? },
        "accept" | "accept4" => match done {
            Some(fd) => What::Accept { fd: fd as u64 },
            None => return Ok(None),
        },
        "connect" => What::Connect { fd: fd()? },
        "recvfrom" | "read" | "recvmsg" | "readv" if done.is_some() => What::Receive { fd: fd()?, octets: octets() },
        "recvfrom" | "read" | "recvmsg" | "readv" => return Ok(None),
        // The process died before strace could see what it wanted. Had it changed a file, the comparison would tell.
        "???" => return Ok(None),
        _ => return Err(format!("{name} is not in the model of the disk")),
    };
    Ok(Some(what))
}

/// The arguments of a call: its strings decoded, and what stands between commas outside of them.
struct Plain {
    strings: Vec<Vec<u8>>,
    fields: Vec<String>,
}

impl Plain {
    fn of(arguments: &[u8]) -> Result<Self, String> {
        let (mut strings, mut rest) = (Vec::new(), Vec::new());
        for (place, part) in arguments.split(|octet| *octet == b'"').enumerate() {
            if place % 2 == 1 {
                strings.push(unescape(part)?);
                rest.push(b'"');
            } else if place > 0 && part.starts_with(b"...") {
                return Err("a string was cut short".into());
            } else {
                rest.extend_from_slice(part);
            }
        }
        let rest = String::from_utf8_lossy(&rest).into_owned();
        Ok(Self { strings, fields: rest.split(", ").map(|field| field.trim().to_owned()).collect() })
    }

    fn number(&self, place: usize) -> Option<u64> {
        self.fields.get(place)?.parse().ok()
    }

    fn path(&self, place: usize) -> Option<String> {
        self.strings.get(place).map(|octets| String::from_utf8_lossy(octets).into_owned())
    }
}

/// `\x41\x42` is AB.
fn unescape(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut octets = Vec::with_capacity(text.len() / 4);
    for escaped in text.chunks(4) {
        match escaped {
            [b'\\', b'x', high, low] => octets.push(digit(*high)? << 4 | digit(*low)?),
            _ => return Err(format!("`{}` is no escaped octet", String::from_utf8_lossy(escaped))),
        }
    }
    Ok(octets)
}

fn digit(digit: u8) -> Result<u8, String> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(format!("{digit} is no hexadecimal digit")),
    }
}

/// The number that a text begins with.
fn number_in(text: &[u8]) -> Option<i64> {
    let text = text.split(|octet| *octet == b' ').next()?;
    let text = std::str::from_utf8(text).ok()?;
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn find_last(text: &[u8], what: &[u8]) -> Option<usize> {
    // What a result may be is short; the arguments may be megabytes.
    let from = text.len().saturating_sub(200);
    text[from..].windows(what.len()).rposition(|window| window == what).map(|at| from + at)
}

#[test]
fn calls_are_read_with_their_begin_and_their_end() {
    let text = br#"7 openat(AT_FDCWD, "\x2f\x61", O_RDWR|O_CREAT|O_TRUNC|O_CLOEXEC, 0600) = 5
7 fallocate(5, 0, 4096, 8192)      = 0
8 pwritev(5, [{iov_base="\x41\x42", iov_len=2}, {iov_base="\x43", iov_len=1}], 2, 4096 <unfinished ...>
7 rename("\x2f\x61", "\x2f\x62")    = -1 ENOENT (No such file or directory)
8 <... pwritev resumed>)            = 3
9 recvfrom(6,  <unfinished ...>
7 fdatasync(5 <unfinished ...>
9 <... recvfrom resumed>"\x68\x69", 65536, 0, NULL, NULL) = 2
8 fdatasync(5)                      = -1 EIO (Input/output error) (INJECTED)
7 <... fdatasync resumed>)          = ?
8 ???( <unfinished ...>
7 +++ killed by SIGKILL +++
"#;
    let calls = read(text, 100).expect("a good trace");
    let open = What::Open { path: "/a".into(), create: true, truncate: true, fd: Some(5) };
    let expected = [
        (100, Some(100), open),
        (101, Some(101), What::Allocate { fd: 5, end: 12288 }),
        (102, Some(104), What::Write { fd: 5, offset: Some(4096), octets: b"ABC".to_vec() }),
        (105, Some(107), What::Receive { fd: 6, octets: b"hi".to_vec() }),
        (106, None, What::Sync { fd: 5 }),
        (108, Some(108), What::FailedSync { fd: 5 }),
    ];
    let found: Vec<_> = calls.into_iter().map(|call| (call.begin, call.end, call.what)).collect();
    assert_eq!(found, expected);
}

#[test]
fn what_the_model_does_not_know_is_an_error() {
    assert!(read(b"7 copy_file_range(5, NULL, 6, NULL, 100, 0) = 100\n", 0).is_err());
    assert!(read(b"7 fallocate(5, FALLOC_FL_PUNCH_HOLE, 0, 100) = 0\n", 0).is_err());
    assert!(read(b"7 write(5, \"\\x41\"..., 100) = 100\n", 0).is_err());
}
