//! Whether anything says who asks. Where nothing else does a store's client asks the machine that it
//! runs on, for minutes where that is none of the cloud's.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use object_store::{
    aws::{AmazonS3Builder, AmazonS3ConfigKey as S3},
    azure::{AzureConfigKey as Azure, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey as Google},
};
use url::Url;

use super::why::{NO_KEYS, NO_KEYS_AZURE, NO_KEYS_GOOGLE};

/// Where a machine of a cloud tells its role's keys.
const METADATA: &str = "http://169.254.169.254";
/// It is next door, or not there.
const PATIENCE: Duration = Duration::from_secs(1);
/// In a container of Google's that has just started it takes some seconds to be there.
const PATIENCE_GOOGLE: Duration = Duration::from_secs(5);
/// Where `gcloud auth application-default login` leaves what it was given.
const LOGIN: &str = ".config/gcloud/application_default_credentials.json";

pub(super) fn s3(builder: &AmazonS3Builder) -> Result<(), String> {
    let said = [
        S3::AccessKeyId,
        S3::SecretAccessKey,
        S3::WebIdentityTokenFile,
        S3::ContainerCredentialsRelativeUri,
        S3::ContainerCredentialsFullUri,
    ];
    let unsigned = builder.get_config_value(&S3::SkipSignature).is_some_and(|v| v == "true");
    if unsigned || said.iter().any(|key| builder.get_config_value(key).is_some()) {
        return Ok(());
    }
    let disabled = std::env::var("AWS_EC2_METADATA_DISABLED");
    if disabled.is_ok_and(|disabled| disabled.eq_ignore_ascii_case("true")) {
        return Err(NO_KEYS.to_owned());
    }
    let endpoint = builder.get_config_value(&S3::MetadataEndpoint);
    let endpoint = endpoint.unwrap_or_else(|| METADATA.to_owned());
    match answers(&endpoint) {
        true => Ok(()),
        false => Err(format!("{NO_KEYS} (this machine's own, at {endpoint}, does not answer)")),
    }
}

pub(super) fn google(builder: &GoogleCloudStorageBuilder) -> Result<(), String> {
    let login = std::env::home_dir().is_some_and(|home| home.join(LOGIN).exists());
    if login || google_is_said(builder) {
        return Ok(());
    }
    let began = Instant::now();
    while began.elapsed() < PATIENCE_GOOGLE {
        match is_google() {
            Ok(true) => return Ok(()),
            Ok(false) => break,
            Err(_) => std::thread::sleep(PATIENCE / 4),
        }
    }
    Err(format!("{NO_KEYS_GOOGLE} (this machine is none of Google's)"))
}

fn google_is_said(builder: &GoogleCloudStorageBuilder) -> bool {
    let said = [Google::ServiceAccount, Google::ServiceAccountKey, Google::ApplicationCredentials];
    let unsigned = builder.get_config_value(&Google::SkipSignature).is_some_and(|v| v == "true");
    unsigned || said.iter().any(|key| builder.get_config_value(key).is_some())
}

/// What answers there says so itself; another cloud's machine, or a proxy, does not.
fn is_google() -> std::io::Result<bool> {
    let at = SocketAddr::from((Ipv4Addr::new(169, 254, 169, 254), 80));
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let ask = "GET / HTTP/1.0\r\nHost: metadata.google.internal\r\nMetadata-Flavor: Google\r\n\r\n";
    stream.write_all(ask.as_bytes())?;
    let mut head = Vec::new();
    stream.take(4 << 10).read_to_end(&mut head)?;
    Ok(String::from_utf8_lossy(&head).to_lowercase().contains("metadata-flavor: google"))
}

pub(super) fn azure(builder: &MicrosoftAzureBuilder) -> Result<(), String> {
    match azure_is_said(builder) || answers(METADATA) {
        true => Ok(()),
        false => Err(format!("{NO_KEYS_AZURE} (this machine is none of Azure's)")),
    }
}

fn azure_is_said(builder: &MicrosoftAzureBuilder) -> bool {
    let said = [
        Azure::AccessKey,
        Azure::ClientId,
        Azure::SasKey,
        Azure::Token,
        Azure::MsiEndpoint,
        Azure::ObjectId,
        Azure::MsiResourceId,
        Azure::FederatedTokenFile,
        Azure::FabricTokenServiceUrl,
    ];
    let ways = [Azure::SkipSignature, Azure::UseAzureCli, Azure::UseEmulator];
    let is_true = |key| builder.get_config_value(key).is_some_and(|value| value == "true");
    ways.iter().any(is_true) || said.iter().any(|key| builder.get_config_value(key).is_some())
}

fn answers(endpoint: &str) -> bool {
    let Some(url) = Url::parse(endpoint).ok() else { return false };
    let Some((host, port)) = url.host_str().zip(url.port_or_known_default()) else {
        return false;
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = (host, port).to_socket_addrs().into_iter().flatten();
    addresses.into_iter().any(|at| TcpStream::connect_timeout(&at, PATIENCE).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_who_asks_is_seen() {
        let google = GoogleCloudStorageBuilder::new;
        assert!(!google_is_said(&google()));
        assert!(google_is_said(&google().with_application_credentials("account.json")));
        assert!(google_is_said(&google().with_service_account_path("account.json")));
        assert!(google_is_said(&google().with_config(Google::SkipSignature, "true")));
        let azure = || MicrosoftAzureBuilder::new().with_account("a");
        assert!(!azure_is_said(&azure()), "a name is no key");
        assert!(azure_is_said(&azure().with_access_key("a2V5")));
        assert!(azure_is_said(&azure().with_bearer_token_authorization("token")));
        assert!(azure_is_said(&azure().with_config(Azure::UseAzureCli, "true")));
    }
}
