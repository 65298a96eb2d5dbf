//! Where files lie: relative paths begin in the folder of the configuration, wherever the server is started.

use std::path::{Path, PathBuf};

use super::accounts::Accounts;
use super::smart_host_auth::SmartHostAuth;
use super::types::Configuration;

/// What stands before the path of a data base in a file.
const SQLITE: &str = "sqlite:";

/// Makes all paths absolute.
pub fn anchor(configuration: &mut Configuration, folder: &Path) {
    let Configuration { store, dns, tls, acme, certificate, client_certificate, accounts, route, .. } = configuration;
    let mut paths = vec![&mut store.path];
    let single = [&mut dns.trust_anchors, &mut tls.roots, &mut acme.root, &mut acme.external_account_key];
    paths.extend(single.into_iter().flatten());
    paths.extend(certificate.iter_mut().flat_map(|files| [&mut files.chain, &mut files.key]));
    paths.extend(client_certificate.iter_mut().filter_map(|client| client.authority.as_mut()));
    paths.extend(route.iter_mut().filter_map(|route| route.auth.as_mut()).flat_map(of_smart_host));
    if let Some(accounts) = accounts {
        paths.extend(of_accounts(accounts, folder));
    }
    for path in paths.into_iter().filter(|path| !path.as_os_str().is_empty()) {
        *path = absolute(folder, path);
    }
}

fn of_smart_host(auth: &mut SmartHostAuth) -> impl Iterator<Item = &mut PathBuf> {
    let service = auth.token_service.as_mut().map(|service| &mut service.client_secret_file);
    [&mut auth.password_file, &mut auth.token_file].into_iter().flatten().chain(service)
}

fn of_accounts<'a>(accounts: &'a mut Accounts, folder: &Path) -> Vec<&'a mut PathBuf> {
    let elsewhere = accounts.dovecot.is_some() || accounts.ldap.is_some() || accounts.sql.is_some();
    if accounts.file.is_none() && !elsewhere {
        accounts.file = Some("accounts.toml".into());
    }
    let Accounts { file, dovecot, ldap, sql, oauth, .. } = accounts;
    if let Some(oauth) = oauth.as_mut().filter(|oauth| !oauth.keys.contains("://")) {
        oauth.keys = absolute(folder, Path::new(&oauth.keys)).to_string_lossy().into_owned();
    }
    let mut paths: Vec<&mut PathBuf> = file.iter_mut().collect();
    if let Some(dovecot) = dovecot {
        paths.push(&mut dovecot.socket);
        paths.extend(&mut dovecot.userdb);
    }
    if let Some(ldap) = ldap {
        paths.extend([&mut ldap.bind_password_file, &mut ldap.ca].into_iter().flatten());
    }
    if let Some(sql) = sql {
        if let Some(path) = sql.url.strip_prefix(SQLITE).filter(|path| !path.is_empty()) {
            sql.url = format!("{SQLITE}{}", absolute(folder, Path::new(path)).display());
        }
        paths.extend([&mut sql.password_file, &mut sql.ca].into_iter().flatten());
    }
    paths
}

fn absolute(folder: &Path, path: &Path) -> PathBuf {
    let path = folder.join(path);
    // It fails only where there is no working directory; then the path is as good as any.
    std::path::absolute(&path).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_relative_path_begins_in_the_folder_of_the_configuration() {
        let text = r#"
            hostname = "mx.test"
            [store]
            path = "queue"
            [tls]
            roots = "roots.pem"
            [acme]
            root = "ca.pem"
            [[certificate]]
            chain = "tls/chain.pem"
            key = "/etc/key.pem"
            [accounts.sql]
            url = "sqlite:people.db"
            password_file = "secret"
            query = "$1"
            [accounts.oauth]
            issuer = "i"
            audience = "a"
            keys = "keys.json"
            [[route]]
            domains = "*"
            to = "relay.test:587"
            [route.auth]
            user = "us"
            password_file = "relay"
        "#;
        let mut configuration: Configuration = toml::from_str(text).unwrap();
        anchor(&mut configuration, Path::new("/etc/postrider"));
        assert_eq!(configuration.store.path, Path::new("/etc/postrider/queue"));
        assert_eq!(configuration.tls.roots.as_deref(), Some(Path::new("/etc/postrider/roots.pem")));
        assert_eq!(configuration.acme.root.as_deref(), Some(Path::new("/etc/postrider/ca.pem")));
        assert_eq!(configuration.certificate[0].chain, Path::new("/etc/postrider/tls/chain.pem"));
        assert_eq!(configuration.certificate[0].key, Path::new("/etc/key.pem"));
        let accounts = configuration.accounts.unwrap();
        assert_eq!(accounts.oauth.unwrap().keys, "/etc/postrider/keys.json");
        let sql = accounts.sql.unwrap();
        assert_eq!((sql.url.as_str(), accounts.file), ("sqlite:/etc/postrider/people.db", None));
        assert_eq!(sql.password_file.as_deref(), Some(Path::new("/etc/postrider/secret")));
        let auth = configuration.route[0].auth.as_ref().unwrap();
        assert_eq!(auth.password_file.as_deref(), Some(Path::new("/etc/postrider/relay")));
    }

    #[test]
    fn accounts_lie_beside_the_configuration_unless_they_are_elsewhere() {
        let mut configuration: Configuration = toml::from_str("hostname = \"mx.test\"\n[accounts]").unwrap();
        anchor(&mut configuration, Path::new("/etc/postrider"));
        let file = configuration.accounts.unwrap().file;
        assert_eq!(file.as_deref(), Some(Path::new("/etc/postrider/accounts.toml")));
    }
}
