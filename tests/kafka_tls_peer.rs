//! A real broker that speaks TLS, with a CA of its own, and with SCRAM: what goes through, and what
//! a person is told whose CA, host name or password is wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use everpair::{
    cli::read_config,
    dataset::{At, Dataset},
    scenes,
    service::open_store,
};
use schemas::tables::ImageRow;
use tempfile::TempDir;

use crate::peers::{kafka::Broker, peer};

const TOPIC: &str = "images";
const IMAGES: usize = 12;
const STORE_PASSWORD: &str = "not-a-secret";
const PASSWORD: &str = "hush-hush-kingfisher";
/// What is refused is told at once. What is not waits for a minute, so this is well below.
const AT_ONCE: Duration = Duration::from_secs(30);

const PROPERTIES: &str = "
listeners=PLAINTEXT://127.0.0.1:@PORT@,CONTROLLER://127.0.0.1:@CONTROLLER_PORT@,\\
SSL://127.0.0.1:@PORT_1@,SASL_SSL://127.0.0.1:@PORT_2@
listener.security.protocol.map=\\
PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
ssl.keystore.type=PKCS12
ssl.keystore.location=@STORE@
ssl.keystore.password=@STORE_PASSWORD@
sasl.enabled.mechanisms=SCRAM-SHA-256
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=\\
org.apache.kafka.common.security.scram.ScramLoginModule required;
";

/// A broker whose certificate is for 127.0.0.1 alone, and files for its clients.
struct Tls {
    broker: Broker,
    folder: TempDir,
}

struct Ended {
    code: Option<i32>,
    said: String,
    took: Duration,
}

impl Tls {
    fn start() -> Tls {
        let folder = tempfile::tempdir().expect("a folder");
        let store = certificate(folder.path(), "ca");
        certificate(folder.path(), "another-ca");
        let properties = PROPERTIES
            .replace("@STORE@", &store.display().to_string())
            .replace("@STORE_PASSWORD@", STORE_PASSWORD);
        let user = format!("SCRAM-SHA-256=[name=alice,password={PASSWORD}]");
        let broker = Broker::start_with(&properties, &["--add-scram", &user]);
        broker.create_topic(TOPIC, 2);
        let images = folder.path().join("photos");
        fs::create_dir(&images).expect("the folder is writable");
        for (number, scene) in scenes::scenes(IMAGES, 7).enumerate() {
            let path = images.join(format!("{number:03}.jpg"));
            fs::write(path, scene.jpeg_or_png).expect("the folder is writable");
        }
        Tls { broker, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A config for the TLS listener, without a password.
    fn config(&self, name: &str, host: &str, ca: &str) -> PathBuf {
        let [port, _] = self.broker.more_ports();
        self.write(name, host, port, &format!("\"security.protocol\" = \"SSL\"\n{}", self.ca(ca)))
    }

    /// A config for the one that wants a user too.
    fn config_with(&self, name: &str, password: &str) -> PathBuf {
        let [_, port] = self.broker.more_ports();
        let settings = format!(
            "\"security.protocol\" = \"SASL_SSL\"\n\"sasl.mechanisms\" = \"SCRAM-SHA-256\"\n\
             \"sasl.username\" = \"alice\"\n\"sasl.password\" = {password:?}\n{}",
            self.ca("ca.pem")
        );
        self.write(name, "127.0.0.1", port, &settings)
    }

    fn ca(&self, name: &str) -> String {
        if name.is_empty() {
            return String::new();
        }
        format!("\"ssl.ca.location\" = {:?}\n", self.path(name).display().to_string())
    }

    fn write(&self, name: &str, host: &str, port: u16, settings: &str) -> PathBuf {
        let path = self.path(&format!("{name}.toml"));
        let text = format!(
            "[source]\nbrokers = \"{host}:{port}\"\ntopics = [\"{TOPIC}\"]\n[source.settings]\n\
             {settings}[tables]\nroot = \"tables-{name}\"\n[screen]\nside_min = 16\n"
        );
        fs::write(&path, text).expect("the folder is writable");
        path
    }

    fn everpair(&self, config: &Path, words: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everpair"));
        command.args(words).arg("--config").arg(config);
        if words == ["push"] {
            command.arg(self.path("photos"));
        }
        let began = Instant::now();
        let output = command.output().expect("the program starts");
        let text =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        Ended { code: output.status.code(), said: text.join("\n"), took: began.elapsed() }
    }

    /// Whatever needs the broker ends with these words, at once.
    fn is_refused(&self, config: &Path, words: &[&str]) {
        for command in [&["validate"][..], &["push"], &["run", "--until-caught-up"]] {
            let Ended { code, said, took } = self.everpair(config, command);
            assert_eq!(code, Some(1), "{command:?}: {said}");
            for words in words {
                assert!(said.contains(words), "{command:?}: no {words:?} in:\n{said}");
            }
            assert!(!said.contains(PASSWORD) && !said.contains("wrong-kingfisher"), "{said}");
            assert!(took < AT_ONCE, "{command:?} took {took:?}:\n{said}");
        }
    }
}

/// Makes a CA, its certificate NAME.pem, and a key store with a certificate that it signed for
/// 127.0.0.1.
fn certificate(folder: &Path, name: &str) -> PathBuf {
    let store = folder.join(format!("{name}.p12"));
    let keytool = |words: &[&str]| {
        let mut command = Command::new(peer("EVERPAIR_JAVA"));
        command.args(["-m", "java.base/sun.security.tools.keytool.Main"]).args(words);
        command.args(["-storetype", "PKCS12", "-storepass", STORE_PASSWORD, "-keystore"]);
        let output = command.arg(&store).output().expect("java starts");
        assert!(output.status.success(), "{output:?}");
    };
    let key = ["-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1", "-validity", "2"];
    let owner = format!("CN={name} of a test");
    keytool(&[&key[..], &["-alias", "ca", "-dname", &owner, "-ext", "bc:c"]].concat());
    let broker = ["-alias", "broker", "-dname", "CN=broker", "-signer", "ca"];
    keytool(&[&key[..], &broker, &["-ext", "san=ip:127.0.0.1"]].concat());
    let pem = folder.join(format!("{name}.pem")).display().to_string();
    keytool(&["-exportcert", "-rfc", "-alias", "ca", "-file", &pem]);
    store
}

fn images(config: &Path) -> usize {
    let config = read_config(config).expect("a config");
    let store = open_store(&config).expect("tables");
    let dataset = Dataset::open(&store, &At::Latest).expect("a committed epoch");
    dataset.rows::<ImageRow>().expect("rows").len()
}

#[test]
fn tls_with_a_ca_of_ones_own_and_with_a_password() {
    let tls = Tls::start();
    let (plain, user) =
        (tls.config("tls", "127.0.0.1", "ca.pem"), tls.config_with("user", PASSWORD));
    for (config, pushed) in [(&plain, 1), (&user, 2)] {
        for command in [&["validate"][..], &["push"], &["run", "--until-caught-up"]] {
            let Ended { code, said, .. } = tls.everpair(config, command);
            assert_eq!(code, Some(0), "{command:?}: {said}");
            assert!(!said.contains(PASSWORD), "{said}");
        }
        assert_eq!(images(config), IMAGES);
        let offsets = tls.broker.next_offsets(TOPIC);
        assert_eq!(offsets.values().sum::<i64>(), (pushed * IMAGES) as i64, "{offsets:?}");
    }

    let words = ["certificate is refused", "ssl.ca.location", "subjectAltName"];
    tls.is_refused(&tls.config("other", "127.0.0.1", "another-ca.pem"), &words);
    // Those of the system do not hold it either.
    tls.is_refused(&tls.config("none", "127.0.0.1", ""), &words);
    // The certificate is for the address alone.
    let words = ["localhost", "certificate is refused", "host name", "advertised.listeners"];
    tls.is_refused(&tls.config("host", "localhost", "ca.pem"), &words);
    let words = ["sasl.password", "sasl.username"];
    tls.is_refused(&tls.config_with("wrong", "wrong-kingfisher"), &words);
    tls.is_refused(
        &tls.config("lost", "127.0.0.1", "no-such.pem"),
        &["ssl.ca.location", "is not there"],
    );
    let offsets = tls.broker.next_offsets(TOPIC);
    assert_eq!(offsets.values().sum::<i64>(), 2 * IMAGES as i64, "nothing went through");
}
