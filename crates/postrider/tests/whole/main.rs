//! The whole binary, from outside: what a person who runs it sees.

mod accounts;
mod checking;
mod control;
mod dialogues;
mod flow;
mod harness;
mod lifecycle;
mod mta_sts;
mod peers;
mod quickstart;
mod readme;
mod sandbox;
mod tls_reports;
