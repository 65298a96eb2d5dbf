//! Records of the DNS that lie below a domain.

use dns::{LookupError, Resolve};
use mail::Domain;

/// The texts of the TXT records of `prefix.domain`; what is not UTF-8 is left out.
pub(crate) async fn texts(resolver: &dyn Resolve, prefix: &str, domain: &Domain) -> Result<Vec<String>, LookupError> {
    // A name that is too long for the DNS has no records.
    let name = Domain::parse(&format!("{prefix}.{domain}")).map_err(|_| LookupError::NoSuchDomain)?;
    let answer = resolver.txt(&name).await?;
    Ok(answer.found.iter().filter_map(|text| String::from_utf8(text.clone()).ok()).collect())
}
