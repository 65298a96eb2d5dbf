//! Authentication on a line: what is said when, and what follows if we are not believed.
//!
//! Whatever goes wrong here is ours to mend: mail waits, nothing bounces, the lane rests, and the log says so loudly.

use mail::{EnhancedCode, Fault, FaultSource, Reply, Verified};
use smtp::client::NoAuth;

use super::{Exchange, unproven};
use crate::line::Line;
use crate::run::Run;
use crate::secure::{Attempt, Unopened};

impl Run<'_> {
    /// Begins an exchange, by the best mechanism that the host offers.
    pub(crate) async fn authenticate(&self, line: &mut Line, offered: &[String]) -> Result<Exchange, Fault> {
        let name = self.target.tls.credentials.as_ref();
        let credentials = name.and_then(|name| self.settings.credentials.get(name));
        let credentials = credentials.ok_or_else(|| unproven("the route has no credentials any more"))?;
        let settings = credentials.settings();
        let secured = line.secured.as_ref();
        let verified = secured.is_some_and(|secured| secured.facts.verified != Verified::No);
        if secured.is_none() || !(verified || settings.unverified) {
            return Err(unproven("the host has not proven who it is"));
        }
        let exporter = secured.and_then(|secured| secured.exporter);
        let mechanism = credentials.choose(offered, exporter.is_some())?;
        let now = self.inner.clock.instant();
        let secret = credentials.secret(now).await?;
        let mut exchange = Exchange::new(mechanism, &settings.user, secret, exporter, offered)?;
        let initial = exchange.initial()?;
        let now = self.inner.clock.instant();
        line.connection.auth(exchange.name(), initial.as_ref().map(|initial| initial.as_slice()), now);
        Ok(exchange)
    }

    /// Answers a challenge of the host.
    pub(crate) fn answer(
        &self,
        line: &mut Line,
        exchange: Option<&mut Exchange>,
        challenge: &[u8],
    ) -> Result<(), Fault> {
        let exchange = exchange.ok_or_else(|| unproven("a challenge out of order"))?;
        let answer = exchange.answer(challenge)?;
        line.connection.auth_response(&answer, self.inner.clock.instant());
        Ok(())
    }

    /// What it means that the host does not believe us: our mistake or its, but never the sender's.
    pub(crate) fn not_believed(&self, line: &Line, exchange: Option<&Exchange>, why: &NoAuth) -> Fault {
        if let Some(credentials) =
            self.target.tls.credentials.as_ref().and_then(|name| self.settings.credentials.get(name))
        {
            credentials.refused();
        }
        let veiled = |text: String| exchange.map_or_else(|| text.clone(), |exchange| exchange.veil(&text));
        match why.reply() {
            (reply, true) => {
                let said = veiled(reply.to_string());
                let text = format!("{} does not accept our credentials: {said}", line.candidate.host);
                Fault { reply: Reply::new(454, EnhancedCode::new(4, 7, 0), text), by: FaultSource::Local }
            }
            (reply, false) => unproven(format!("{}: {}", line.candidate.host, veiled(reply.text()))),
        }
    }

    /// Ends a line on which nothing can be sent.
    pub(crate) async fn unproven(&self, mut line: Line, fault: Fault) -> Attempt {
        let route = self.target.tls.credentials.as_deref();
        tracing::error!(route, host = line.candidate.host, reason = %fault.reply.text(), "not authenticated: mail waits");
        self.inner.metrics.failed("auth");
        line.quit().await;
        Attempt::Over(Unopened::Unreached(fault))
    }
}
