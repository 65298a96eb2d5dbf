//! A walk through what an operator selects, page by page, whatever its number.
//!
//! A selection by domain looks only where mail for the domain can be: among the domain's own mail and that of routes.
//! All others go through the whole queue in the order of acceptance.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use mail::{Destination, Domain, MessageId, Site, Timestamp};
use store::{Cursor, ReadError, Schedule, StoredMessage};

use crate::control::{Action, ControlError};
use crate::place::place;
use crate::queue::Inner;
use crate::scheduler::Key;
use crate::selection::Selection;
use crate::verdict;

/// Messages looked at together.
pub(crate) const PAGE: usize = 1024;
/// Destinations looked at together.
const DESTINATIONS: usize = 1024;

/// A message with what of it is meant.
pub(crate) struct Found {
    pub(crate) stored: Arc<StoredMessage>,
    pub(crate) targets: Vec<Target>,
}

/// Recipients of a delivery that are meant.
pub(crate) struct Target {
    pub(crate) key: Key,
    pub(crate) destination: Destination,
    pub(crate) recipients: Vec<u32>,
}

/// What the walk is for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// To change what is met; given at that time.
    Act(Action, Timestamp),
    /// To count it.
    Count,
    /// To show it in the order of acceptance, from behind a message; recipients that are final too.
    List(Option<MessageId>),
}

/// See the module's description.
pub(crate) struct Walk<'a> {
    inner: &'a Arc<Inner>,
    selection: &'a Selection,
    purpose: Purpose,
    sites: HashMap<Destination, Option<Site>>,
    way: Way,
}

enum Way {
    /// To one message.
    Message(MessageId),
    /// From behind a message on.
    Messages(Option<MessageId>),
    /// Through these destinations, in the first from behind a place on.
    Destinations(VecDeque<Destination>, Option<Cursor>),
    End(Option<MessageId>),
}

impl<'a> Walk<'a> {
    pub(crate) async fn new(
        inner: &'a Arc<Inner>,
        selection: &'a Selection,
        purpose: Purpose,
    ) -> Result<Self, ControlError> {
        if selection.is_empty() {
            return Err(ControlError::NothingSelected);
        }
        let way = match (selection.id, &selection.domain, purpose) {
            (Some(id), _, Purpose::List(after)) if after.is_some_and(|after| id <= after) => Way::End(after),
            (Some(id), _, _) => Way::Message(id),
            (None, _, Purpose::List(after)) => Way::Messages(after),
            (None, Some(domain), _) => Way::Destinations(of_domain(inner, domain).await?, start(purpose)),
            (None, None, _) => Way::Messages(None),
        };
        Ok(Self { inner, selection, purpose, sites: HashMap::new(), way })
    }

    /// The last message that was looked at, in the order of acceptance.
    pub(crate) fn after(&self) -> Option<MessageId> {
        match self.way {
            Way::Messages(after) | Way::End(after) => after,
            Way::Message(_) | Way::Destinations(..) => None,
        }
    }

    /// What is meant of the next page, which may be nothing; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Found>>, ReadError> {
        let store = &self.inner.store;
        let (page, only) = match &mut self.way {
            Way::End(_) => return Ok(None),
            Way::Message(id) => {
                let id = *id;
                self.way = Way::End(Some(id));
                (store.message(id).await?.into_iter().collect(), None)
            }
            Way::Messages(after) => {
                let page = store.page(*after, PAGE).await?;
                let last = page.last().map(|stored| stored.id).or(*after);
                self.way = if page.len() < PAGE { Way::End(last) } else { Way::Messages(last) };
                (page, None)
            }
            Way::Destinations(left, at) => {
                let Some(destination) = left.front().cloned() else { return Ok(None) };
                let rows = match self.purpose {
                    // What the command puts on hold it must not meet again.
                    Purpose::Act(Action::Hold | Action::Retry, _) => {
                        store.due(&destination, *at, Timestamp::MAX, PAGE).await?
                    }
                    _ => store.of_destination(&destination, *at, PAGE).await?,
                };
                *at = rows.last().map(store::Due::cursor);
                if rows.len() < PAGE {
                    left.pop_front();
                    *at = start(self.purpose);
                }
                let mut ids: Vec<MessageId> = rows.iter().map(|row| row.id).collect();
                ids.sort_unstable();
                ids.dedup();
                (store.messages(ids).await?, Some(destination))
            }
        };
        let now = self.inner.clock.now();
        let mut found = Vec::new();
        for stored in page {
            if !self.selection.fits_message(&stored, now) {
                continue;
            }
            let targets = self.targets(&stored, only.as_ref()).await;
            if !targets.is_empty() {
                found.push(Found { stored, targets });
            }
        }
        Ok(Some(found))
    }

    /// What is meant of a message, of one destination alone if only that is looked at.
    async fn targets(&mut self, stored: &StoredMessage, only: Option<&Destination>) -> Vec<Target> {
        let final_too = matches!(self.purpose, Purpose::List(_));
        let mut targets = Vec::new();
        for (number, delivery) in (0u32..).zip(&stored.deliveries) {
            let elsewhere = only.is_some_and(|only| *only != delivery.destination);
            if elsewhere || !self.is_concerned((stored.id, number), &delivery.when(), only.is_some()) {
                continue;
            }
            let recipients = self.selection.recipients(&stored.envelope, delivery, final_too);
            let destination = delivery.destination.clone();
            if !recipients.is_empty() && self.fits_site(&destination).await {
                targets.push(Target { key: (stored.id, number), destination, recipients });
            }
        }
        targets
    }

    /// Whether the schedule of a delivery is one that is looked for. A message is met once for each of its places in a
    /// destination's schedule, so only those count that the walk comes to.
    fn is_concerned(&self, key: Key, schedule: &Schedule, by_destination: bool) -> bool {
        match (self.purpose, schedule) {
            (_, Schedule::Finished) => false,
            (Purpose::Act(Action::Hold | Action::Retry, _), Schedule::Held(_)) => !by_destination,
            // One that is put on hold once its attempt is over may not be recorded as held yet.
            (Purpose::Act(Action::Release, _), Schedule::At(_)) => !by_destination && self.is_under_orders(key),
            (Purpose::Act(Action::Retry, at), Schedule::At(due)) => !by_destination || *due > at,
            _ => true,
        }
    }

    fn is_under_orders(&self, key: Key) -> bool {
        self.inner.core(|core, _| core.scheduler.in_flight(key).is_some_and(|(_, order)| order.is_some()))
    }

    async fn fits_site(&mut self, destination: &Destination) -> bool {
        let Some(wanted) = &self.selection.site else { return true };
        let destination = verdict::origin(destination);
        if !self.sites.contains_key(&destination) {
            let site = self.inner.site_of(&destination).await;
            self.sites.insert(destination.clone(), site);
        }
        self.sites.get(&destination).is_some_and(|site| site.as_ref() == Some(wanted))
    }
}

/// Where the walk through a destination begins: behind what the command changes nothing of. What a command changes must
/// end up where the walk has been.
fn start(purpose: Purpose) -> Option<Cursor> {
    let due = match purpose {
        Purpose::Act(Action::Retry, at) => at,
        Purpose::Act(Action::Release, _) => Timestamp::MAX,
        _ => return None,
    };
    Some(Cursor::behind(due))
}

/// Where recipients of a domain may be: at its own exchanges, or under the name of a route, also of one that is no
/// more.
async fn of_domain(inner: &Inner, domain: &Domain) -> Result<VecDeque<Destination>, ReadError> {
    let mut found = VecDeque::from([Destination::new(format!("mx:{domain}"))]);
    // All names but those of exchanges, of which each has mail for one domain, and of reports, whose recipients are
    // final.
    for (from, until) in [(None, Some("mx:")), (Some("mx;"), Some("notice:")), (Some("notice;"), None)] {
        let mut after = from.map(Destination::new);
        loop {
            let page = inner.store.destinations_after(after.as_ref(), DESTINATIONS).await?;
            let whole = page.len() == DESTINATIONS;
            let before = page.len();
            let names = page.into_iter().map(|(name, _)| name);
            let names: Vec<_> = names.take_while(|name| until.is_none_or(|until| name.as_str() < until)).collect();
            let more = whole && names.len() == before;
            after = names.last().cloned();
            found.extend(names);
            if !more {
                break;
            }
        }
    }
    Ok(found)
}

impl Inner {
    /// The site of a destination, looked up if need be.
    async fn site_of(&self, destination: &Destination) -> Option<Site> {
        if let Some(lane) = self.core(|core, _| core.scheduler.lane_of(destination)) {
            return Some(lane.site);
        }
        let rules = self.rules();
        let (target, _) = place(&rules, &*self.resolver, destination).await.ok()?;
        Some(target.lane.site.clone())
    }
}
