//! From `[tables] root` to an object store: a folder, or a URL whose scheme says which.
//!
//! Credentials come from where each cloud's own tools look: environment variables, files, the
//! machine's role. The config can say everything else (endpoint, region, …) and no secret.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    path::Path,
};
use schemas::limits;
use url::Url;

use super::{
    super::{Error, Result},
    keys,
};

/// Words of settings that hold secrets: these come from the environment, never from a config.
const SECRETS: [&str; 7] =
    ["secret", "token", "password", "access_key", "account_key", "sas", "private"];

/// Opens what a URL names; the path in it is the tables' root.
///
/// # Errors
/// `Refused` where the URL or a setting cannot be used, with words that say what can.
pub(super) fn open(
    url: &str,
    settings: &BTreeMap<String, String>,
    retry_time: Duration,
) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let refused = |why: String| Error::Refused(format!("{url}: {why}"));
    let parsed = Url::parse(url).map_err(|error| refused(error.to_string()))?;
    if parsed.password().is_some() || !parsed.username().is_empty() || parsed.query().is_some() {
        return Err(refused("a user, password or query does not belong into the root".into()));
    }
    if parsed.host_str().unwrap_or_default().is_empty() {
        return Err(refused("names no bucket: s3://BUCKET/PATH".into()));
    }
    if let Some(key) = settings.keys().find(|key| is_secret(key)) {
        let why = format!("[tables.settings] {key}: secrets come from environment variables only");
        return Err(refused(why));
    }
    let root = Path::from_url_path(parsed.path()).map_err(|error| refused(error.to_string()))?;
    let failed = |error: object_store::Error| refused(error.to_string());
    let unknown = |key: &str| refused(format!("[tables.settings] {key}: there is no such setting"));
    let (retry, client) = (retries(retry_time), client());
    let objects: Arc<dyn ObjectStore> = match parsed.scheme() {
        "s3" | "s3a" => {
            let mut builder = AmazonS3Builder::from_env().with_url(parsed.to_string());
            for (key, value) in settings {
                let known: AmazonS3ConfigKey = key.parse().map_err(|_| unknown(key))?;
                builder = builder.with_config(known, value);
            }
            builder = profile::fill(builder).map_err(refused)?;
            keys::s3(&builder).map_err(refused)?;
            let client = with_http(client, builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
            let builder = builder.with_retry(retry).with_client_options(client);
            Arc::new(builder.build().map_err(failed)?)
        }
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(parsed.to_string());
            for (key, value) in settings {
                let known: GoogleConfigKey = key.parse().map_err(|_| unknown(key))?;
                builder = builder.with_config(known, value);
            }
            keys::google(&builder).map_err(refused)?;
            let client = with_http(client, builder.get_config_value(&GoogleConfigKey::BaseUrl));
            let builder = builder.with_retry(retry).with_client_options(client);
            Arc::new(builder.build().map_err(failed)?)
        }
        "az" | "abfs" | "abfss" => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(parsed.to_string());
            for (key, value) in settings {
                let known: AzureConfigKey = key.parse().map_err(|_| unknown(key))?;
                builder = builder.with_config(known, value);
            }
            keys::azure(&builder).map_err(refused)?;
            let client = with_http(client, builder.get_config_value(&AzureConfigKey::Endpoint));
            let builder = builder.with_retry(retry).with_client_options(client);
            Arc::new(builder.build().map_err(failed)?)
        }
        other => {
            let known = "a folder, s3://, gs:// or az://";
            return Err(refused(format!("{other}:// is not known; the root is {known}")));
        }
    };
    Ok((objects, root))
}

fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    // The one word with "token" in it that only says where a token is.
    !key.contains("file") && SECRETS.iter().any(|word| key.contains(word))
}

/// Bounded, with jitter: what a store does not give within these, the service stops for, and goes
/// on from the tables at its next start.
fn retries(retry_time: Duration) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: limits::STORE_BACKOFF_MAX,
            base: 3.0,
        },
        max_retries: limits::STORE_RETRIES,
        retry_timeout: retry_time,
    }
}

/// An endpoint without TLS was written down on purpose.
fn with_http(client: ClientOptions, endpoint: Option<String>) -> ClientOptions {
    client.with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")))
}

fn client() -> ClientOptions {
    ClientOptions::new()
        .with_timeout(limits::STORE_REQUEST_TIME)
        .with_connect_timeout(limits::STORE_CONNECT_TIME)
        .with_user_agent(reqwest::header::HeaderValue::from_static(concat!(
            "everpair/",
            env!("CARGO_PKG_VERSION")
        )))
}

/// The file where the tools of S3 keep credentials, which object_store does not read.
mod profile {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};

    /// Takes the profile's keys where neither the environment nor the config says how to sign.
    pub(super) fn fill(mut builder: AmazonS3Builder) -> Result<AmazonS3Builder, String> {
        let said = [
            Key::AccessKeyId,
            Key::WebIdentityTokenFile,
            Key::ContainerCredentialsRelativeUri,
            Key::ContainerCredentialsFullUri,
        ];
        let signs_anyway = said.iter().any(|key| builder.get_config_value(key).is_some());
        let unsigned = builder.get_config_value(&Key::SkipSignature).is_some_and(|v| v == "true");
        if signs_anyway || unsigned {
            return Ok(builder);
        }
        let chosen = std::env::var("AWS_PROFILE").ok();
        let home = || Some(format!("{}/.aws/credentials", std::env::var("HOME").ok()?));
        let Some(file) = std::env::var("AWS_SHARED_CREDENTIALS_FILE").ok().or_else(home) else {
            return Ok(builder);
        };
        let name = chosen.as_deref().unwrap_or("default");
        let text = match (std::fs::read_to_string(&file), &chosen) {
            (Ok(text), _) => text,
            (Err(_), None) => return Ok(builder),
            (Err(error), Some(_)) => return Err(format!("AWS_PROFILE={name}: {file}: {error}")),
        };
        let Some(keys) = keys_of(&text, name) else {
            return match chosen {
                Some(_) => Err(format!("AWS_PROFILE={name}: {file} has no [{name}]")),
                None => Ok(builder),
            };
        };
        for (name, value) in keys {
            let key = match name {
                "aws_access_key_id" => Key::AccessKeyId,
                "aws_secret_access_key" => Key::SecretAccessKey,
                "aws_session_token" => Key::Token,
                _ => continue,
            };
            builder = builder.with_config(key, value);
        }
        Ok(builder)
    }

    /// The `name = value` lines of one `[section]`.
    pub(super) fn keys_of<'a>(text: &'a str, section: &str) -> Option<Vec<(&'a str, &'a str)>> {
        let mut found = None;
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                if found.is_some() {
                    break;
                }
                found = (name.trim() == section).then(Vec::new);
            } else if let (Some(keys), Some((key, value))) = (&mut found, line.split_once('='))
                && !line.starts_with(['#', ';'])
            {
                keys.push((key.trim(), value.trim()));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str, settings: &[(&str, &str)]) -> String {
        let settings = settings.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        open(url, &settings, Duration::ZERO).map(|_| ()).expect_err("must be refused").to_string()
    }

    #[test]
    fn what_cannot_be_opened_is_refused_with_words() {
        assert!(refusal("ftp://bucket/x", &[]).contains("s3://, gs:// or az://"));
        assert!(refusal("s3:///x", &[]).contains("names no bucket"));
        assert!(refusal("s3://user:word@bucket/x", &[]).contains("does not belong"));
        assert!(refusal("s3://bucket/x", &[("regoin", "x")]).contains("regoin: there is no such"));
        for secret in ["aws_secret_access_key", "secret_access_key", "aws_session_token", "token"] {
            let said = refusal("s3://bucket/x", &[(secret, "hush-hush")]);
            assert!(said.contains("environment variables only"), "{said}");
            assert!(!said.contains("hush-hush"), "{said}");
        }
        let azure = refusal("az://box/x", &[("azure_storage_account_key", "hush-hush")]);
        assert!(azure.contains("environment variables only") && !azure.contains("hush-hush"));
    }

    #[test]
    fn the_root_is_the_path_of_the_url() {
        let settings = [
            ("region", "eu-west-1"),
            ("endpoint", "http://127.0.0.1:9"),
            ("skip_signature", "true"),
        ];
        let settings = settings.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        for (url, root) in [("s3://bucket/a/b", "a/b"), ("s3://bucket/a/", "a"), ("s3://b", "")] {
            assert_eq!(open(url, &settings, Duration::ZERO).expect("it opens").1.as_ref(), root);
        }
    }

    #[test]
    fn a_profile_is_read_to_its_end() {
        let text = "# mine\n[default]\naws_access_key_id = A\n\n[other]\n;x = 1\naws_access_key_id=B\n\
                    aws_secret_access_key = C=D\n[third]\naws_access_key_id = E\n";
        let keys = profile::keys_of(text, "other").expect("it is there");
        assert_eq!(keys, [("aws_access_key_id", "B"), ("aws_secret_access_key", "C=D")]);
        assert_eq!(profile::keys_of(text, "fourth"), None);
    }
}
