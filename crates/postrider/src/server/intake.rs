//! The door to the queue before there is a queue: listeners are bound first, as root, and the store is opened later, as
//! somebody else.

use std::sync::OnceLock;

use mail::{EnhancedCode, Reply};
use reception::{Draft, Intake, QueueIntake, Refused};

/// An intake that is opened once.
#[derive(Default)]
pub struct LateIntake(OnceLock<QueueIntake>);

impl LateIntake {
    /// From now on mail goes there. The first call counts.
    pub fn open(&self, intake: QueueIntake) {
        let _ = self.0.set(intake);
    }
}

impl Intake for LateIntake {
    fn begin(&self, expected: Option<u64>) -> Result<Box<dyn Draft>, Refused> {
        match self.0.get() {
            Some(intake) => intake.begin(expected),
            None => Err(Refused {
                reply: Reply::new(451, EnhancedCode::new(4, 3, 2), "The server is starting, try again later"),
                reason: "starting",
                passing: false,
            }),
        }
    }
}
