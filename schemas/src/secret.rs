//! What must never be shown: values of settings whose names say so.

use std::{collections::BTreeMap, fmt};

/// Words in the name of a setting, or of an environment variable, whose value is a secret.
const WORDS: [&str; 13] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "private",
    "access_key",
    "account_key",
    "api_key",
    "jaas",
    "oauthbearer.config",
    "pem",
];
/// Words of names that only say where a secret is, or whose it is.
const HARMLESS: [&str; 5] = ["file", "location", "endpoint", "url", "refresh"];
/// What stands in place of a secret.
pub const HIDDEN: &str = "***";

/// Whether the value of a setting of this name is a secret.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    let harmless = HARMLESS.iter().any(|word| name.contains(word)) || name.ends_with("_id");
    !harmless && WORDS.iter().any(|word| name.contains(word))
}

/// Settings as they may be shown.
pub struct Shown<'a>(pub &'a BTreeMap<String, String>);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self
            .0
            .iter()
            .map(|(name, value)| (name, if is_secret(name) { HIDDEN } else { value.as_str() }));
        f.debug_map().entries(shown).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_known() {
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.keystore.password",
            "sasl.oauthbearer.client.secret",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "azure_storage_account_key",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "security.protocol",
            "sasl.username",
            "ssl.key.location",
            "ssl.ca.location",
            "sasl.oauthbearer.token.endpoint.url",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_ACCESS_KEY_ID",
            "key",
            "region",
        ] {
            assert!(!is_secret(name), "{name}");
        }
        let settings = [("sasl.password", "hunter2"), ("sasl.username", "me")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let shown = format!("{:?}", Shown(&settings));
        assert_eq!(shown, r#"{"sasl.password": "***", "sasl.username": "me"}"#);
    }
}
