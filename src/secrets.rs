//! Secrets that this process knows, taken out of everything that it says.
//!
//! Nothing here prints a secret on purpose. But a client library may put a setting into its error,
//! and a config that cannot be parsed is shown with the line that is wrong; so every line on
//! standard error and every page of the console passes through [`hide`].

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::{PoisonError, RwLock},
};

use schemas::secret::{HIDDEN, is_secret};

static KNOWN: RwLock<BTreeSet<String>> = RwLock::new(BTreeSet::new());
/// Shorter ones are not looked for: they would be found in words.
const BYTES_MIN: usize = 4;
/// Lines of a longer secret (a key in PEM) are looked for one by one from this length on.
const LINE_BYTES_MIN: usize = 16;
/// Variables that hold what our clients send: of others a value may be any word.
const PREFIXES: [&str; 4] = ["AWS_", "AZURE_", "GOOGLE_", "EVERPAIR_"];

/// A value that must not be shown.
pub fn learn(secret: &str) {
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    let lines = secret.lines().map(str::trim).filter(|line| line.len() >= LINE_BYTES_MIN);
    for value in lines.chain([secret]).filter(|value| value.len() >= BYTES_MIN) {
        let quoted = serde_json::Value::from(value).to_string();
        known.insert(quoted[1..quoted.len() - 1].to_owned());
        known.insert(value.to_owned());
    }
}

/// The secrets among settings.
pub fn learn_settings(settings: &BTreeMap<String, String>) {
    settings.iter().filter(|(name, _)| is_secret(name)).for_each(|(_, value)| learn(value));
}

/// The secrets in the environment.
pub fn learn_environment() {
    for (name, value) in std::env::vars_os() {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && is_secret(&name) {
            learn(&value);
        }
    }
}

/// The secrets in a config that may not be one: whatever follows the name of a secret and `=`.
pub fn learn_text(text: &str) {
    for line in text.lines() {
        for (at, _) in line.match_indices('=') {
            let name = line[..at].rsplit(['{', ',', '=']).next().unwrap_or_default();
            let value = line[at + 1..].trim();
            if !is_secret(name) || value.is_empty() {
                continue;
            }
            match value.chars().next().filter(|quote| ['"', '\''].contains(quote)) {
                Some(quote) => learn(value[1..].split(quote).next().unwrap_or_default()),
                None => learn(value.split([',', '}', '#']).next().unwrap_or_default().trim()),
            }
        }
    }
}

/// The text without the secrets that are known, and without the user and password of any URL.
pub fn hide(text: &str) -> Cow<'_, str> {
    let mut hidden = without_users(text);
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    // The longest first: one may hold another.
    let mut known: Vec<&String> = known.iter().collect();
    known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    for secret in known {
        if hidden.contains(secret.as_str()) {
            hidden = Cow::Owned(hidden.replace(secret.as_str(), HIDDEN));
        }
    }
    hidden
}

fn without_users(text: &str) -> Cow<'_, str> {
    let Some((before, after)) = text.split_once("://") else { return Cow::Borrowed(text) };
    let end = after
        .find(|c: char| c.is_whitespace() || ['/', '"', '\'', '<', '>', '?', '#'].contains(&c))
        .unwrap_or(after.len());
    let (host, rest) = after.split_at(end);
    let rest = without_users(rest);
    match host.rsplit_once('@') {
        Some((_, host)) => Cow::Owned(format!("{before}://{HIDDEN}@{host}{rest}")),
        None => match rest {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(rest) => Cow::Owned(format!("{before}://{host}{rest}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_secrets_and_users_of_urls_are_hidden() {
        learn("p\"w-zebra");
        learn("-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\n-----END KEY-----");
        assert_eq!(hide("it is p\"w-zebra."), "it is ***.");
        assert_eq!(hide(r#"{"message":"it is p\"w-zebra."}"#), r#"{"message":"it is ***."}"#);
        assert_eq!(hide("at MIIEvQIBADANBgkqhkiG;"), "at ***;");
        assert_eq!(
            hide("s3://me:pw@bucket/x and http://a:b@c:9000 and http://plain/x@y"),
            "s3://***@bucket/x and http://***@c:9000 and http://plain/x@y"
        );
        assert!(matches!(hide("nothing to hide at http://plain/x"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_config_that_is_none_gives_its_secrets_away_to_nobody() {
        learn_text("[source.settings]\n\"sasl.password\" = 481516234\n");
        learn_text(
            "settings = { \"ssl.key.password\" = \"okapi-1\", \"sasl.username\" = \"me-too\" ",
        );
        let hidden = hide("481516234 okapi-1 me-too");
        assert_eq!(hidden, "*** *** me-too");
    }
}
