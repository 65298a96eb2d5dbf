//! `postrider account`: the accounts file, changed and shown.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use directory::file::{AccountsFile, EditError, Entry};
use directory::{LastUse, Password, PasswordError, SendAs, SendAsError, generate_password};
use mail::{Clock, SystemClock};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::{AccountCommand, AppPasswordCommand, PasswordFrom};
use crate::config::{self, Loaded, Problems};
use crate::control::{Client, ClientError, Request};
use crate::{output, server, use_command};

/// The shortest password that a person may choose, in characters (NIST SP 800-63B §3.1.1).
const LEAST: usize = 8;

/// Why a command about accounts did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The configuration cannot be used.
    #[error("the configuration cannot be used")]
    Configuration(#[from] Problems),
    /// There is no file to change.
    #[error("the configuration has no accounts")]
    None,
    /// Another program keeps them.
    #[error("the accounts are not in a file: Dovecot, an LDAP server or a data base keeps them")]
    Elsewhere,
    /// See the inner error.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// See the inner error.
    #[error(transparent)]
    SendAs(#[from] SendAsError),
    /// See the inner error.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Easily guessed.
    #[error("a password has at least {LEAST} characters")]
    Short,
    /// Two different ones.
    #[error("the two passwords differ")]
    Differ,
    /// Nobody can be asked.
    #[error("there is no terminal to ask for the password at")]
    NoTerminal,
    /// The accounts would belong to nobody.
    #[error("there is no user `{0}` on this system")]
    User(String),
    /// See the inner error.
    #[error(transparent)]
    Control(#[from] ClientError),
    /// See the inner error.
    #[error("{0}")]
    Output(#[from] io::Error),
}

impl AccountError {
    /// What to do about it.
    pub fn cure(&self) -> Option<String> {
        match self {
            Self::None => Some("add the table [accounts] to the configuration".to_owned()),
            Self::NoTerminal => Some("give it on standard input with --password-stdin, or say --generate".to_owned()),
            Self::Edit(EditError::NoAddress(_)) => Some("say --send-as, such as --send-as joe@example.org".to_owned()),
            Self::Edit(EditError::System { error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => {
                Some("run the command as root, to whom the accounts' folder belongs".to_owned())
            }
            Self::Control(error) => error.cure(),
            Self::Short => Some("let it be made: --generate".to_owned()),
            _ => None,
        }
    }
}

/// Carries out a command.
pub fn run(config: &Path, command: &AccountCommand) -> Result<(), AccountError> {
    let loaded = config::load_to_obey(config)?;
    let socket = loaded.configuration.store.path.join(server::CONTROL_SOCKET);
    match command {
        AccountCommand::Usage { name, json } => return Ok(use_command::usage(&socket, name.as_deref(), *json)?),
        AccountCommand::Release { name, reason, json } => {
            return Ok(use_command::release(&socket, name, reason, *json)?);
        }
        _ => {}
    }
    let path = accounts_file(&loaded)?;
    match command {
        AccountCommand::Usage { .. } | AccountCommand::Release { .. } => Ok(()),
        AccountCommand::Add { name, send_as, without_password, app_passwords_only, password, json } => {
            let password = if *without_password { None } else { Some(password_from(password)?) };
            let mut file = AccountsFile::open(&path)?;
            let rules = if send_as.is_empty() { None } else { Some(SendAs::parse(send_as)?) };
            let given = password.as_ref().map(|(password, _)| password);
            let entry = file.add(name, rules, given, SystemClock.now())?;
            entry.app_passwords_only = *app_passwords_only;
            let (name, rules) = (entry.name.clone(), entry.sends_as().describe());
            save(file, &loaded)?;
            tell(&name, &format!("is made; it sends as {rules}"), password.and_then(made), *json)
        }
        AccountCommand::Passwd { name, password, json } => {
            // What cannot be done is said before somebody has typed a password twice.
            AccountsFile::open(&path)?.entry(name)?;
            let password = password_from(password)?;
            let mut file = AccountsFile::open(&path)?;
            file.set_password(name, &password.0)?;
            let name = file.entry(name)?.name.clone();
            save(file, &loaded)?;
            tell(&name, "has another password", made(password), *json)
        }
        AccountCommand::Disable { name } => set_disabled(&path, &loaded, name, true),
        AccountCommand::Enable { name } => set_disabled(&path, &loaded, name, false),
        AccountCommand::Remove { name } => {
            let mut file = AccountsFile::open(&path)?;
            file.remove(name)?;
            save(file, &loaded)?;
            tell(name, "is removed", None, false)
        }
        AccountCommand::List { json } => list(AccountsFile::open(&path)?.entries(), *json),
        AccountCommand::Show { name, json } => {
            let file = AccountsFile::open(&path)?;
            let entry = file.entry(name)?;
            show(entry, last_uses(&loaded, &entry.name), *json)
        }
        AccountCommand::AppPassword { command } => app_password(&path, &loaded, command),
    }
}

fn app_password(path: &Path, loaded: &Loaded, command: &AppPasswordCommand) -> Result<(), AccountError> {
    let mut file = AccountsFile::open(path)?;
    match command {
        AppPasswordCommand::Add { name, label, json } => {
            let password = file.add_app_password(name, label, SystemClock.now())?;
            let name = file.entry(name)?.name.clone();
            save(file, loaded)?;
            tell(&name, &format!("has an app password `{}`", output::harmless(label)), Some(password), *json)
        }
        AppPasswordCommand::List { name, json } => {
            let entry = file.entry(name)?;
            let uses = last_uses(loaded, &entry.name);
            if *json {
                return Ok(output::json(&app_passwords(entry, uses.as_deref()))?);
            }
            if entry.app_password.is_empty() {
                return Ok(output::line("no app password")?);
            }
            Ok(output::print(app_passwords_text(entry, uses.as_deref()))?)
        }
        AppPasswordCommand::Remove { name, label } => {
            file.remove_app_password(name, label)?;
            save(file, loaded)?;
            tell(name, &format!("has no app password `{}` any more", output::harmless(label)), None, false)
        }
    }
}

fn accounts_file(loaded: &Loaded) -> Result<PathBuf, AccountError> {
    let accounts = loaded.configuration.accounts.as_ref().ok_or(AccountError::None)?;
    accounts.file.clone().ok_or(AccountError::Elsewhere)
}

fn set_disabled(path: &Path, loaded: &Loaded, name: &str, disabled: bool) -> Result<(), AccountError> {
    let mut file = AccountsFile::open(path)?;
    file.set_disabled(name, disabled)?;
    save(file, loaded)?;
    tell(name, if disabled { "is shut out" } else { "may log in again" }, None, false)
}

/// The server must be able to read what root writes. Where the configuration names no user, it runs as whoever owns the store.
fn save(file: AccountsFile, loaded: &Loaded) -> Result<(), AccountError> {
    let owner = match &loaded.configuration.user {
        _ if !nix::unistd::geteuid().is_root() => None,
        Some(user) => {
            let found = nix::unistd::User::from_name(user).ok().flatten();
            let found = found.ok_or_else(|| AccountError::User(user.clone()))?;
            Some((found.uid.as_raw(), found.gid.as_raw()))
        }
        None => {
            let store = std::fs::metadata(&loaded.configuration.store.path).ok();
            store.map(|store| (store.uid(), store.gid()))
        }
    };
    Ok(file.save(owner)?)
}

/// A password, and whether it was made here.
pub type Chosen = (Password, bool);

pub fn password_from(from: &PasswordFrom) -> Result<Chosen, AccountError> {
    if from.generate {
        return Ok((generate_password(), true));
    }
    let text = if from.password_stdin { from_stdin()? } else { ask()? };
    if text.chars().count() < LEAST {
        return Err(AccountError::Short);
    }
    Ok((Password::new(text.as_str())?, false))
}

fn made((password, made): Chosen) -> Option<Password> {
    made.then_some(password)
}

/// The first line, however long.
fn from_stdin() -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    io::stdin().lock().take(64 << 10).read_line(&mut line)?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

fn ask() -> Result<Zeroizing<String>, AccountError> {
    if !io::stdin().is_terminal() {
        return Err(AccountError::NoTerminal);
    }
    let first = Zeroizing::new(rpassword::prompt_password("Password: ")?);
    let second = Zeroizing::new(rpassword::prompt_password("Again: ")?);
    if first == second { Ok(first) } else { Err(AccountError::Differ) }
}

/// Says what was done; a password that was made is told this once.
fn tell(name: &str, what: &str, password: Option<Password>, json: bool) -> Result<(), AccountError> {
    let name = output::harmless(name);
    if json {
        let password = password.as_ref().map(Password::reveal);
        return Ok(output::json(&json!({ "account": name, "password": password }))?);
    }
    output::line(format_args!("{name} {what}"))?;
    if let Some(password) = &password {
        output::line(format_args!("password: {}", password.reveal()))?;
    }
    Ok(())
}

/// What the running server knows of an account's last uses; nothing if none runs.
fn last_uses(loaded: &Loaded, account: &str) -> Option<Vec<LastUse>> {
    let socket = loaded.configuration.store.path.join(server::CONTROL_SOCKET);
    let request = Request::LastUses { account: account.to_owned() };
    serde_json::from_value(Client::connect(&socket).ok()?.ask(&request).ok()?).ok()
}

fn list(entries: &[Entry], json: bool) -> Result<(), AccountError> {
    if json {
        for entry in entries {
            output::line(to_json(entry, None))?;
        }
        return Ok(());
    }
    if entries.is_empty() {
        return Ok(output::line("no account")?);
    }
    let wide = entries.iter().map(|entry| entry.name.chars().count()).max().unwrap_or(0).max(7);
    let mut text = format!("{:wide$}  {:8}  {:>4}  SENDS AS\n", "ACCOUNT", "STATE", "APPS");
    for entry in entries {
        let (name, rules) = (output::harmless(&entry.name), output::harmless(&entry.sends_as().describe()));
        let _ = writeln!(text, "{name:wide$}  {:8}  {:>4}  {rules}", state(entry), entry.app_password.len());
    }
    Ok(output::print(text)?)
}

fn show(entry: &Entry, uses: Option<Vec<LastUse>>, json: bool) -> Result<(), AccountError> {
    if json {
        return Ok(output::json(&to_json(entry, uses.as_deref()))?);
    }
    let password = match (entry.has_password(), entry.app_passwords_only) {
        (false, _) => "none",
        (true, true) => "not for this server: app passwords only",
        (true, false) => "set",
    };
    let mut text = format!(
        "account    {}\nstate      {}\nsends as   {}\npassword   {password}\n",
        output::harmless(&entry.name),
        state(entry),
        output::harmless(&entry.sends_as().describe())
    );
    if let Some(created) = &entry.created {
        let _ = writeln!(text, "made       {}", output::harmless(created));
    }
    if let Some(limits) = &entry.limits {
        let limits = serde_json::to_value(limits).map_err(io::Error::other)?;
        let limits =
            limits.as_object().into_iter().flatten().map(|(key, value)| format!("{value} {}", key.replace('_', " ")));
        let _ = writeln!(text, "limits     {}", limits.collect::<Vec<_>>().join(", "));
    }
    let _ = writeln!(text, "last use   {}", last_use(uses.as_deref(), None));
    text.push_str(&app_passwords_text(entry, uses.as_deref()));
    Ok(output::print(text)?)
}

fn app_passwords_text(entry: &Entry, uses: Option<&[LastUse]>) -> String {
    let mut text = String::new();
    for one in &entry.app_password {
        let made = one.created.as_deref().map(output::harmless).unwrap_or_default();
        let used = last_use(uses, Some(&one.name));
        let _ = writeln!(text, "app        {}: made {made}, last use {used}", output::harmless(&one.name));
    }
    text
}

fn last_use(uses: Option<&[LastUse]>, app_password: Option<&str>) -> String {
    let Some(uses) = uses else { return "not known: no server runs".to_owned() };
    match uses.iter().find(|one| one.app_password.as_deref() == app_password) {
        Some(found) => format!("{} from {}", found.at, found.from),
        None => "never".to_owned(),
    }
}

fn state(entry: &Entry) -> &'static str {
    if entry.disabled { "disabled" } else { "enabled" }
}

fn to_json(entry: &Entry, uses: Option<&[LastUse]>) -> Value {
    json!({
        "account": entry.name,
        "disabled": entry.disabled,
        "password": entry.has_password(),
        "app_passwords_only": entry.app_passwords_only,
        "send_as": entry.sends_as().rules().collect::<Vec<_>>(),
        "limits": entry.limits,
        "hide_client": entry.hide_client,
        "created": entry.created,
        "last_use": json_use(uses, None),
        "app_passwords": app_passwords(entry, uses),
    })
}

fn app_passwords(entry: &Entry, uses: Option<&[LastUse]>) -> Value {
    let one = |app: &directory::file::AppPassword| json!({ "name": app.name, "created": app.created, "last_use": json_use(uses, Some(&app.name)) });
    entry.app_password.iter().map(one).collect()
}

fn json_use(uses: Option<&[LastUse]>, app_password: Option<&str>) -> Value {
    let found = uses.into_iter().flatten().find(|one| one.app_password.as_deref() == app_password);
    found.map_or(Value::Null, |found| json!({ "at": found.at.to_string(), "from": found.from }))
}
