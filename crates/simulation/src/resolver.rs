//! The DNS of the world: down, slow, changing or lying, as its mood is.

use std::sync::Arc;
use std::time::Duration;

use dns::{Addresses, Answer, BoxFuture, LookUp, LookupError, MxAnswer, MxRecord, Resolve, TlsaRecord};
use mail::Domain;
use tokio::time::sleep;

use crate::harm::DnsMood;
use crate::scene::Scene;

/// Answers for the whole world.
pub struct SimResolver(pub Arc<Scene>);

impl SimResolver {
    /// The time that an answer takes; an error if there is none.
    async fn ask(&self) -> Result<DnsMood, LookupError> {
        if !self.0.life.step() {
            std::future::pending::<()>().await;
        }
        let (mood, random) = (self.0.world.dns(), &self.0.world.random);
        match mood {
            DnsMood::Slow => sleep(Duration::from_millis(random.below(20_000) as u64)).await,
            DnsMood::Down => {
                sleep(Duration::from_secs(5)).await;
                return Err(LookupError::temporary("no name server answers"));
            }
            _ => sleep(Duration::from_millis(random.below(30) as u64)).await,
        }
        if !self.0.life.step() {
            std::future::pending::<()>().await;
        }
        Ok(mood)
    }
}

impl Resolve for SimResolver {
    fn mx<'a>(&'a self, name: &'a Domain) -> LookUp<'a, MxAnswer> {
        Box::pin(async move {
            let mood = self.ask().await?;
            let world = &self.0.world;
            let site = world.plan.site_of(name.as_str()).ok_or(LookupError::NoSuchDomain)?;
            let oddity = name.as_str().len() + site;
            if mood == DnsMood::Lies {
                if oddity % 3 < 2 {
                    self.0.ledger().domain_refused(name.as_str());
                }
                return match oddity % 3 {
                    0 => Err(LookupError::NoSuchDomain),
                    1 => Ok(Answer::insecure(MxAnswer::Null)),
                    _ => Err(LookupError::temporary("SERVFAIL")),
                };
            }
            let mut hosts: Vec<MxRecord> = (0..world.plan.sites[site].hosts.len())
                .filter_map(|host| {
                    let host = Domain::parse(&format!("h{host}.s{site}.example")).ok()?;
                    Some(MxRecord { preference: 10, host })
                })
                .collect();
            if mood == DnsMood::Changed {
                hosts.truncate(1);
            }
            Ok(Answer::insecure(MxAnswer::Hosts(hosts.into())))
        })
    }

    fn addresses<'a>(&'a self, name: &'a Domain) -> BoxFuture<'a, Result<Addresses, LookupError>> {
        Box::pin(async move {
            self.ask().await?;
            let numbers = name.as_str().strip_suffix(".example").and_then(|name| name.split_once('.'));
            let number = |text: &str| text.get(1..).and_then(|number| number.parse::<usize>().ok());
            let found = numbers.and_then(|(host, site)| {
                let site = self.0.world.plan.sites.get(number(site)?)?;
                site.hosts.get(number(host)?).copied()
            });
            let whole = |address| Addresses { ips: vec![address], ..Addresses::default() };
            found.map(whole).ok_or(LookupError::NoSuchDomain)
        })
    }

    fn tlsa<'a>(&'a self, _: &'a Domain) -> LookUp<'a, Arc<[TlsaRecord]>> {
        Box::pin(async { self.ask().await.and(Err(LookupError::NoRecords)) })
    }

    fn txt<'a>(&'a self, _: &'a Domain) -> LookUp<'a, Arc<[Vec<u8>]>> {
        Box::pin(async { self.ask().await.and(Err(LookupError::NoRecords)) })
    }

    fn ptr<'a>(&'a self, _: &'a Domain) -> LookUp<'a, Arc<[Domain]>> {
        Box::pin(async { self.ask().await.and(Err(LookupError::NoRecords)) })
    }
}
