//! Accounts that are elsewhere, against the real servers: Dovecot, OpenLDAP, PostgreSQL; and SQLite.

mod client;
mod dovecot;
mod ldap;
mod peers;
mod sql;
mod unpacked;
