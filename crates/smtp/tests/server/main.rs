//! The receiving side from outside: transcripts, properties, and what only a driver can do to a session.

mod accounts;
mod dialogues;
mod driver;
mod properties;
mod script;
