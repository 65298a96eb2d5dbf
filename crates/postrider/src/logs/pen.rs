//! Writes lines in the background, in order, many at once.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How much may wait to be written before those who log must wait too.
const MOST_WAITING: usize = 4 << 20;
/// How long lines wait for company: a write each would cost more than all else about a line.
const GATHER: Duration = Duration::from_millis(5);
/// How long the end waits for a reader that does not read.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where lines go; clones share it.
#[derive(Clone)]
pub struct Pen(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    writing: bool,
    /// Somebody waits until everything is written.
    hurried: bool,
    /// The reader is gone: there is nobody to write for.
    broken: bool,
}

impl Pen {
    /// Starts the thread that writes to `out`.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(out));
        if thread.is_err() {
            shared.lock().broken = true;
        }
        Self(shared)
    }

    /// Takes one line with its line end.
    pub fn write(&self, line: &[u8]) {
        let mut state = self.0.lock();
        while state.waiting.len() > MOST_WAITING && !state.broken {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let first = state.waiting.is_empty();
        if !state.broken {
            state.waiting.extend_from_slice(line);
        }
        drop(state);
        if first {
            self.0.changed.notify_all();
        }
    }

    /// Waits until everything is written.
    pub fn finish(&self) {
        let mut state = self.0.lock();
        state.hurried = true;
        self.0.changed.notify_all();
        let busy = |state: &mut State| (state.writing || !state.waiting.is_empty()) && !state.broken;
        let _ = self.0.changed.wait_timeout_while(state, LAST_WORDS, busy);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        let mut state = self.lock();
        while !state.broken {
            if state.waiting.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let calm = |state: &mut State| !state.hurried && state.waiting.len() <= MOST_WAITING;
            state = self.changed.wait_timeout_while(state, GATHER, calm).unwrap_or_else(PoisonError::into_inner).0;
            std::mem::swap(&mut batch, &mut state.waiting);
            state.writing = true;
            drop(state);
            let result = out.write_all(&batch).and_then(|()| out.flush());
            batch.clear();
            state = self.lock();
            state.writing = false;
            state.broken = result.is_err();
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buffer);
            Ok(buffer.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_many_threads_arrive_whole() {
        let page = Page::default();
        let pen = Pen::new(page.clone());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let pen = pen.clone();
                scope.spawn(move || (0..500).for_each(|at| pen.write(format!("{thread} {at}\n").as_bytes())));
            }
        });
        pen.finish();
        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2000);
        let of_one: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("2 ")).collect();
        assert_eq!(of_one, (0..500).map(|at| at.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn a_reader_that_is_gone_stops_nobody() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let pen = Pen::new(Gone);
        (0..100).for_each(|_| pen.write(&vec![b'x'; 1 << 20]));
        pen.finish();
    }
}
