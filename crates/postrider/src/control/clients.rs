//! What is answered about clients and accounts.

use mail::{Act, Clock, SystemClock};
use queue::{Action, Selection};

use super::Request;
use super::answer::Control;
use super::server::{Answer, Refusal};

impl Control {
    /// Answers a request about bans or about what accounts send.
    pub(super) async fn about_clients(&self, request: Request, answer: &mut Answer) -> Result<(), Refusal> {
        match request {
            Request::Bans => {
                for ban in self.reception.bans() {
                    answer.item(&ban).await?;
                }
                Ok(())
            }
            Request::Ban { network, time, author, reason } => {
                let network: reception::Network = network.parse().map_err(Refusal::new)?;
                self.reception.ban(network, time, act(author, reason)).await.map_err(Refusal::new)?;
                let bans = self.reception.bans();
                answer.item(&bans.iter().find(|ban| ban.network == network.to_string())).await
            }
            Request::LiftBan { network, author, reason } => {
                let network: reception::Network = network.parse().map_err(Refusal::new)?;
                let lifted = self.reception.lift_ban(network, act(author, reason)).await.map_err(Refusal::new)?;
                answer.item(&serde_json::json!({ "network": network.to_string(), "lifted": lifted })).await
            }
            Request::AccountUses { account: Some(account) } => {
                answer.item(&self.reception.account_use(&account).await.map_err(Refusal::new)?).await
            }
            Request::AccountUses { account: None } => {
                for one in self.reception.account_uses().await.map_err(Refusal::new)? {
                    answer.item(&one).await?;
                }
                Ok(())
            }
            Request::ReleaseAccount { account, author, reason } => {
                // First the account: what comes in between the two steps is not held any more.
                let released = self.reception.release_account(&account, act(author.clone(), reason.clone())).await;
                if !released.map_err(Refusal::new)? {
                    return Err(Refusal::new(format!("the mail of {account} is not on hold")));
                }
                let selection = Selection { account: Some(account), ..Selection::default() };
                self.act(Action::Release, &selection, &author, &reason, answer).await
            }
            _ => Err(Refusal::new("this is not about clients")),
        }
    }
}

fn act(author: String, reason: String) -> Act {
    Act { author, reason, at: SystemClock.now() }
}
