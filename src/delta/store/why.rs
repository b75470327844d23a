//! What an object store's refusal means, in one line that says what to do.

/// How a store says that the bucket itself is not there: S3 and Google's, Azure's.
const NO_BUCKET: [&str; 2] = ["NoSuchBucket", "ContainerNotFound"];

/// Whether "not found" means the bucket. Else an object that is not there would be meant, and a
/// bucket that is misspelt would look like empty tables.
pub(super) fn is_no_bucket(error: &object_store::Error) -> bool {
    let text = error.to_string();
    code(&text).is_some_and(|code| NO_BUCKET.contains(&code))
}

/// The error in one line, and what to do about it.
pub(in crate::delta) fn why(error: &object_store::Error) -> String {
    let text = error.to_string();
    // It asks the machine for keys where nothing else has any.
    if ["/latest/api/token", "/latest/meta-data"].iter().any(|path| text.contains(path)) {
        return format!("{NO_KEYS} (this machine has no role that gives any)");
    }
    if text.contains("/computeMetadata/") {
        return format!("{NO_KEYS_GOOGLE} (this machine has no role that gives any)");
    }
    if text.contains("/metadata/identity/") {
        return format!("{NO_KEYS_AZURE} (this machine has no role that gives any)");
    }
    let Some(code) = code(&text) else { return shortened(&text, error) };
    let advice = match code {
        "NoSuchBucket" | "ContainerNotFound" => {
            "the bucket does not exist: create it, or correct the bucket or the endpoint"
        }
        "AccessDenied" | "AuthorizationFailure" => {
            "these credentials may not do that: they must be allowed to list, read, write and \
             delete below the root"
        }
        "InvalidAccessKeyId" => {
            "the store does not know this access key: check the credentials (AWS_ACCESS_KEY_ID), \
             and that the endpoint is that of the store which gave them"
        }
        "SignatureDoesNotMatch" | "AuthenticationFailed" => {
            "the secret does not belong to the access key: check the credentials \
             (AWS_SECRET_ACCESS_KEY)"
        }
        "ExpiredToken" | "InvalidToken" => {
            "the session's credentials have ended: get new ones (AWS_SESSION_TOKEN)"
        }
        "RequestTimeTooSkewed" => "this machine's clock is not that of the store: set it",
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraint" => {
            "the bucket is in another region: set region in [tables.settings]"
        }
        _ => "",
    };
    let said = between(&text, "<Message>", "</Message>").unwrap_or_default();
    let more = if advice.is_empty() { said } else { advice };
    match more.is_empty() {
        true => code.to_owned(),
        false => format!("{code}: {more}"),
    }
}

/// What is missing where nothing says who asks.
pub(super) const NO_KEYS: &str = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
                                  or AWS_PROFILE with ~/.aws/credentials, or run with a role of \
                                  the cloud";

/// The same for Google's.
pub(super) const NO_KEYS_GOOGLE: &str = "no credentials: name a service account's file in \
                                         GOOGLE_APPLICATION_CREDENTIALS, or log in with gcloud \
                                         auth application-default login, or run with a role of \
                                         the cloud";
/// The same for Azure's.
pub(super) const NO_KEYS_AZURE: &str = "no credentials: set AZURE_STORAGE_ACCOUNT_NAME and \
                                        AZURE_STORAGE_ACCOUNT_KEY, or what says the same of a \
                                        SAS or a service principal, or run with a role of the \
                                        cloud";

/// How a file system, or a server with one, says that it has no room.
const FULL: [&str; 4] = [
    "No space left on device",
    "Disk quota exceeded",
    "507 Insufficient Storage",
    "XMinioStorageFull",
];

/// The code in an answer's XML.
fn code(text: &str) -> Option<&str> {
    between(text, "<Code>", "</Code>")
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    Some(rest.split_once(end)?.0.trim())
}

/// Without an answer's markup, and without a number of tries that no one waits for.
fn shortened(text: &str, error: &object_store::Error) -> String {
    let end = [text.find("<?xml"), text.find("<!"), text.find("<html")];
    let text = &text[..end.into_iter().flatten().min().unwrap_or(text.len())];
    let text = text.replace(&format!(", max_retries: {}", schemas::limits::STORE_RETRIES), "");
    let advice = match error {
        object_store::Error::Unauthenticated { .. } => {
            "; it does not know the credentials: check them"
        }
        object_store::Error::PermissionDenied { .. } => {
            "; the credentials must be allowed to list, read, write and delete below the root"
        }
        _ if FULL.iter().any(|full| text.contains(full)) => {
            "; make room below the root and start it again: it goes on from what is committed"
        }
        _ => "",
    };
    format!("{}{advice}", text.trim_end().trim_end_matches(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(body: &str) -> object_store::Error {
        let text = format!(
            "Error performing GET http://h/b/k in 2ms - Server returned non-2xx \
                            status code: 403 Forbidden: {body}"
        );
        object_store::Error::PermissionDenied { path: "k".into(), source: text.into() }
    }

    #[test]
    fn each_refusal_is_one_line_with_its_code_and_what_to_do() {
        for (code, words) in [
            ("AccessDenied", "list, read, write and delete"),
            ("NoSuchBucket", "the bucket does not exist"),
            ("InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
            ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
            ("ExpiredToken", "AWS_SESSION_TOKEN"),
            ("PermanentRedirect", "set region"),
            ("Strange", "in its own words"),
        ] {
            let error = denied(&format!(
                "<?xml version=\"1.0\"?>\n<Error>\n<Code>{code}</Code>\n\
                 <Message>in its own words</Message></Error>"
            ));
            let said = why(&error);
            assert!(said.starts_with(&format!("{code}: ")) && said.contains(words), "{said}");
            assert!(!said.contains('<') && !said.contains('\n'), "{said}");
            assert_eq!(is_no_bucket(&error), code == "NoSuchBucket");
        }
        let full = std::io::Error::from_raw_os_error(28);
        let full = object_store::Error::Generic { store: "folder", source: full.into() };
        assert!(why(&full).contains("make room"), "{}", why(&full));
        let said = why(&denied("<html>\n<body>Forbidden</body>"));
        assert!(said.contains("403") && said.contains("credentials must be"), "{said}");
        assert!(!said.contains('<') && !said.contains('\n'), "{said}");
    }
}
