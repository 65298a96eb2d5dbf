//! A table that answers like the DNS.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mail::Domain;

use crate::{Addresses, Alias, Answer, LookUp, LookupError, MxAnswer, MxRecord, Resolve, TlsaRecord};

/// Answers from a table at once. What is not in it does not exist. May be changed while it is in use; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Fixed(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    names: HashMap<Domain, Entry>,
    asked: HashMap<Domain, usize>,
    signed: Vec<Domain>,
}

#[derive(Debug, Default)]
struct Entry {
    mx: Vec<MxRecord>,
    null_mx: bool,
    addresses: Vec<IpAddr>,
    alias: Option<Domain>,
    tlsa: Vec<TlsaRecord>,
    texts: Vec<Vec<u8>>,
    points_to: Vec<Domain>,
    temporary: bool,
    bogus: bool,
}

impl Fixed {
    /// Adds an MX record.
    pub fn mx(&self, name: &str, preference: u16, host: &str) -> &Self {
        self.change(name, |entry| {
            entry.mx.push(MxRecord { preference, host: domain(host) });
            entry.mx.sort_unstable();
        })
    }

    /// The name takes no mail.
    pub fn null_mx(&self, name: &str) -> &Self {
        self.change(name, |entry| entry.null_mx = true)
    }

    /// Adds an address.
    pub fn host(&self, name: &str, address: &str) -> &Self {
        let address = address.parse().expect("an IP address");
        self.change(name, |entry| entry.addresses.push(address))
    }

    /// The addresses of the name are those of another, whose alias it is.
    pub fn alias(&self, name: &str, to: &str) -> &Self {
        self.change(name, |entry| entry.alias = Some(domain(to)))
    }

    /// Adds a PTR record.
    pub fn ptr(&self, address: &str, host: &str) -> &Self {
        let name = crate::reverse(address.parse().expect("an IP address"));
        self.change(name.as_str(), |entry| entry.points_to.push(domain(host)))
    }

    /// Adds a TLSA record.
    pub fn tlsa(&self, name: &str, record: TlsaRecord) -> &Self {
        self.change(name, |entry| entry.tlsa.push(record))
    }

    /// Adds a TXT record.
    pub fn text(&self, name: &str, text: &str) -> &Self {
        self.change(name, |entry| entry.texts.push(text.into()))
    }

    /// Everything at and below the name is signed.
    pub fn signed(&self, apex: &str) -> &Self {
        self.table().signed.push(domain(apex));
        self
    }

    /// Look-ups of the name give answers that DNSSEC proves wrong.
    pub fn bogus(&self, name: &str) -> &Self {
        self.change(name, |entry| entry.bogus = true)
    }

    /// The name exists, perhaps without any records.
    pub fn exists(&self, name: &str) -> &Self {
        self.change(name, |_| ())
    }

    /// Look-ups of the name fail for now.
    pub fn temporary(&self, name: &str) -> &Self {
        self.change(name, |entry| entry.temporary = true)
    }

    /// Takes the name out of the table.
    pub fn forget(&self, name: &str) -> &Self {
        self.table().names.remove(&domain(name));
        self
    }

    /// How often something was looked up for the name.
    pub fn asked(&self, name: &str) -> usize {
        self.table().asked.get(&domain(name)).copied().unwrap_or(0)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Entry)) -> &Self {
        change(self.table().names.entry(domain(name)).or_default());
        self
    }

    fn look_up<T>(&self, name: &Domain, pick: impl FnOnce(&Entry) -> Option<T>) -> Result<Answer<T>, LookupError> {
        let mut table = self.table();
        *table.asked.entry(name.clone()).or_default() += 1;
        let entry = table.names.get(name).ok_or(LookupError::NoSuchDomain)?;
        if entry.temporary {
            return Err(LookupError::temporary("SERVFAIL by the table"));
        }
        if entry.bogus {
            return Err(LookupError::bogus("bogus by the table"));
        }
        let found = pick(entry).ok_or(LookupError::NoRecords)?;
        Ok(Answer { found, secure: table.signed.iter().any(|apex| name == apex || name.is_below(apex)) })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolve for Fixed {
    fn mx<'a>(&'a self, name: &'a Domain) -> LookUp<'a, MxAnswer> {
        let answer = self.look_up(name, |entry| match entry {
            Entry { null_mx: true, mx, .. } if mx.is_empty() => Some(MxAnswer::Null),
            Entry { mx, .. } if mx.is_empty() => None,
            Entry { mx, .. } => Some(MxAnswer::Hosts(mx.clone().into())),
        });
        std::future::ready(answer).boxed()
    }

    fn addresses<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Result<Addresses, LookupError>> {
        let pick = |entry: &Entry| {
            let found = Some((entry.addresses.clone(), entry.alias.clone()));
            found.filter(|(addresses, _)| !addresses.is_empty())
        };
        let whole = |Answer { found: (ips, alias), secure }: Answer<(Vec<IpAddr>, Option<Domain>)>| Addresses {
            ips,
            secure,
            alias: alias.map(|to| Alias { to, secure }),
        };
        std::future::ready(self.look_up(name, pick).map(whole)).boxed()
    }

    fn tlsa<'a>(&'a self, name: &'a Domain) -> LookUp<'a, Arc<[TlsaRecord]>> {
        let pick = |entry: &Entry| Some(entry.tlsa.clone().into()).filter(|records: &Arc<[_]>| !records.is_empty());
        std::future::ready(self.look_up(name, pick)).boxed()
    }

    fn txt<'a>(&'a self, name: &'a Domain) -> LookUp<'a, Arc<[Vec<u8>]>> {
        let pick = |entry: &Entry| Some(entry.texts.clone().into()).filter(|texts: &Arc<[_]>| !texts.is_empty());
        std::future::ready(self.look_up(name, pick)).boxed()
    }

    fn ptr<'a>(&'a self, name: &'a Domain) -> LookUp<'a, Arc<[Domain]>> {
        let pick = |entry: &Entry| Some(entry.points_to.clone().into()).filter(|names: &Arc<[_]>| !names.is_empty());
        std::future::ready(self.look_up(name, pick)).boxed()
    }
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).expect("a domain name")
}
