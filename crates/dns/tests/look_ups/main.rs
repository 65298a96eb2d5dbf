//! Look-ups against a real name server on the loopback interface, and mail hosts by the rules.

mod dnssec;
mod exchanges;
mod resolver;
mod validation;

use mail::Domain;

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}
