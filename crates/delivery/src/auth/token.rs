//! Tokens: from a file, a command, or a service that grants them to a client (RFC 6749 §4.4).

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use super::secret::{SecretError, SecretPlace, first_line};

/// How long a command or a service may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most octets of an answer.
const LONGEST: usize = 64 << 10;
/// How long what a command has printed is used again.
const COMMAND_LIFE: Duration = Duration::from_secs(60);
/// How long before its end a granted token is not used any more.
const MARGIN: Duration = Duration::from_secs(60);
/// How long a token is used whose grantor does not say (RFC 6749 §5.1 recommends that it does).
const UNKNOWN_LIFE: Duration = Duration::from_secs(300);

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// The first line of a file that somebody else keeps fresh.
    File(PathBuf),
    /// The first line that a command prints: program and arguments, without a shell.
    Command(Vec<String>),
    /// A service that grants them to us as its client.
    Client(ClientGrant),
}

/// How to get a token by client credentials (RFC 6749 §4.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientGrant {
    /// The service.
    pub url: String,
    /// Our name there.
    pub id: String,
    /// Our secret there.
    pub secret: SecretPlace,
    /// What the token is for, in the words of the service.
    pub scope: Option<String>,
}

/// The token that is in use.
#[derive(Default)]
pub(super) struct Tokens {
    kept: Mutex<Option<(SecretString, Instant)>>,
    /// One request at a time: who waits takes what the other got.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Option<Seconds>,
}

/// A number; older services of Microsoft write it as text.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "serde_json::Value")]
struct Seconds(u64);

impl TryFrom<serde_json::Value> for Seconds {
    type Error = &'static str;

    fn try_from(value: serde_json::Value) -> Result<Self, Self::Error> {
        let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
        number.map(Self).ok_or("expires_in is no number")
    }
}

impl Tokens {
    /// A token that is good for now.
    pub async fn get(&self, source: &TokenSource, now: Instant) -> Result<SecretString, SecretError> {
        if let TokenSource::File(path) = source {
            return SecretPlace::File(path.clone()).read().await;
        }
        let _alone = self.asking.lock().await;
        if let Some((token, until)) = &*self.kept()
            && now < *until
        {
            return Ok(token.clone());
        }
        let asked = async {
            match source {
                TokenSource::File(path) => Ok((SecretPlace::File(path.clone()).read().await?, Duration::ZERO)),
                TokenSource::Command(words) => Ok((run(words).await?, COMMAND_LIFE)),
                TokenSource::Client(grant) => grant.ask().await,
            }
        };
        let late = || SecretError::NotGranted(format!("no answer within {} s", PATIENCE.as_secs()));
        let (token, life) = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| late())??;
        *self.kept() = Some((token.clone(), now + life));
        Ok(token)
    }

    pub fn forget(&self) {
        *self.kept() = None;
    }

    fn kept(&self) -> MutexGuard<'_, Option<(SecretString, Instant)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first line that a command prints. What it says on standard error is not repeated: it may hold secrets.
async fn run(words: &[String]) -> Result<SecretString, SecretError> {
    let failed = |why: String| SecretError::NotGranted(why);
    let (program, arguments) = words.split_first().ok_or_else(|| failed("no command is given".into()))?;
    let mut command = tokio::process::Command::new(program);
    // The environment may hold other secrets of ours.
    let kept = ["PATH", "HOME", "LANG", "TZ"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command
        .env_clear()
        .envs(kept)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| failed(format!("cannot run {program}: {error}")))?;
    let mut text = Zeroizing::new(String::new());
    if let Some(output) = child.stdout.take() {
        let read = output.take(LONGEST as u64).read_to_string(&mut text).await;
        read.map_err(|error| failed(format!("cannot read what {program} prints: {error}")))?;
    }
    let status = child.wait().await.map_err(|error| failed(format!("{program}: {error}")))?;
    if !status.success() {
        return Err(failed(format!("{program} ended with {status}")));
    }
    first_line(text.to_string(), &format!("what {program} prints"))
}

impl ClientGrant {
    fn form(&self, secret: &SecretString) -> String {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        form.append_pair("client_id", &self.id).append_pair("client_secret", secret.expose_secret());
        if let Some(scope) = &self.scope {
            form.append_pair("scope", scope);
        }
        form.finish()
    }

    /// A token, and how long it may be used.
    async fn ask(&self) -> Result<(SecretString, Duration), SecretError> {
        let failed = |why: String| SecretError::NotGranted(format!("{}: {why}", self.url));
        let secret = self.secret.read().await?;
        let form = self.form(&secret);
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build();
        // Errors of the library name the address at most.
        let client = client.map_err(|error| failed(error.to_string()))?;
        let request = client
            .post(&self.url)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Accept", "application/json")
            .body(form);
        let mut answer = request.send().await.map_err(|error| failed(error.without_url().to_string()))?;
        if !answer.status().is_success() {
            return Err(failed(format!("it answered {}", answer.status())));
        }
        let mut octets = Zeroizing::new(Vec::new());
        while let Some(piece) = answer.chunk().await.map_err(|error| failed(error.without_url().to_string()))? {
            if octets.len() + piece.len() > LONGEST {
                return Err(failed("its answer is too long".into()));
            }
            octets.extend_from_slice(&piece);
        }
        // What the parser says of a mistake would quote the answer.
        let granted: Granted = serde_json::from_slice(&octets).map_err(|_| {
            failed("its answer is not as RFC 6749 §5.1 wants it: no access_token, or expires_in is no number".into())
        })?;
        let token = first_line(granted.access_token, "the token")?;
        let life = granted
            .expires_in
            .map_or(UNKNOWN_LIFE, |seconds| Duration::from_secs(seconds.0.min(86_400)).saturating_sub(MARGIN));
        Ok((token, life))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn what_a_command_prints_is_used_for_a_minute_or_until_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let count = folder.path().join("count");
        let script = format!("echo x >> '{0}'; echo token-$(wc -l < '{0}')", count.display());
        let source = TokenSource::Command(vec!["/bin/sh".into(), "-c".into(), script]);
        let (tokens, start) = (Tokens::default(), Instant::now());
        let mut seen = Vec::new();
        for seconds in [0, 59, 60, 61] {
            let token = tokens.get(&source, start + Duration::from_secs(seconds)).await.unwrap();
            seen.push(token.expose_secret().to_owned());
        }
        tokens.forget();
        seen.push(tokens.get(&source, start + Duration::from_secs(62)).await.unwrap().expose_secret().to_owned());
        assert_eq!(seen, ["token-1", "token-1", "token-2", "token-2", "token-3"]);
    }

    #[tokio::test]
    async fn a_command_that_fails_gives_no_token_and_does_not_tell_what_it_printed() {
        let source = TokenSource::Command(["/bin/sh", "-c", "echo secret; exit 3"].map(str::to_owned).into());
        let error = Tokens::default().get(&source, Instant::now()).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && !error.contains("secret"), "{error}");
    }

    /// A service that answers one request so; gives the request.
    async fn serve(listener: TcpListener, status: &str, body: &str) -> String {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"scope=mail.send") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    }

    async fn ask(status: &str, body: &str) -> (String, Result<(SecretString, Duration), SecretError>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), "s&cret\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grant = ClientGrant {
            url: format!("http://{}/token", listener.local_addr().unwrap()),
            id: "us".into(),
            secret: SecretPlace::File(folder.path().join("secret")),
            scope: Some("mail.send".into()),
        };
        tokio::join!(serve(listener, status, body), grant.ask())
    }

    #[tokio::test]
    async fn a_service_grants_tokens_to_its_client() {
        let (request, granted) =
            ask("200 OK", r#"{"access_token":"abc","token_type":"Bearer","expires_in":3600}"#).await;
        assert!(request.starts_with("POST /token HTTP/1.1\r\n"), "{request}");
        let form = "grant_type=client_credentials&client_id=us&client_secret=s%26cret&scope=mail.send";
        assert!(request.ends_with(form), "{request}");
        let (token, life) = granted.unwrap();
        assert_eq!((token.expose_secret(), life), ("abc", Duration::from_secs(3540)));
        let (_, granted) = ask("200 OK", r#"{"access_token":"abc","expires_in":"3600"}"#).await;
        assert_eq!(granted.unwrap().1, Duration::from_secs(3540), "as text");
    }

    #[tokio::test]
    async fn a_service_that_refuses_is_told_without_what_it_said() {
        for (status, body) in [("401 Unauthorized", "s&cret"), ("302 Found", ""), ("200 OK", "<s&cret>")] {
            let (_, refused) = ask(status, body).await;
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("/token: it") && !error.contains("s&cret"), "{error}");
        }
    }
}
