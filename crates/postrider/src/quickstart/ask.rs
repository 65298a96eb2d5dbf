//! Questions to a person at a terminal. All of them come before anything is written.

use std::io::{self, BufRead, IsTerminal, Write};

use directory::Password;
use mail::{Mailbox, Utf8};

use super::QuickstartError;
use super::options::Options;
use super::plan::Plan;
use crate::account_command::password_from;

/// The first account.
#[derive(Debug)]
pub struct FirstAccount {
    /// Its name, which is its address, too.
    pub name: Mailbox,
    /// Its password.
    pub password: Password,
    /// Whether the password was made here, and has to be told.
    pub generated: bool,
}

/// Asks for the first account as far as the command line does not say it. Nothing without a terminal and an answer.
pub fn first_account(options: &Options, plan: &Plan) -> Result<Option<FirstAccount>, QuickstartError> {
    let there = plan.accounts.as_ref().is_none_or(|path| path.exists());
    let Some(name) = (match &options.account {
        Some(name) => Some(name.clone()),
        None if there || !io::stdin().is_terminal() => None,
        None => ask(&format!(
            "Address of the first account, such as you@{} (empty: none): ",
            plan.domains.first().unwrap_or(&plan.domain)
        ))?,
    }) else {
        return Ok(None);
    };
    let name = Mailbox::parse(&name, Utf8::Refused)
        .map_err(|error| QuickstartError::Account { name: name.clone(), why: error.to_string() })?;
    match &plan.accounts {
        None => return Err(QuickstartError::NoAccounts(plan.configuration())),
        Some(path) if there => return Err(QuickstartError::AccountsExist(path.clone())),
        Some(_) => {}
    }
    let (password, generated) = password_from(&options.password)?;
    Ok(Some(FirstAccount { name, password, generated }))
}

fn ask(question: &str) -> io::Result<Option<String>> {
    eprint!("{question}");
    io::stderr().flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(Some(line.trim().to_owned()).filter(|answer| !answer.is_empty()))
}
