//! The same messages through a real Kafka, with the keys and headers that no file log can say.

use std::{fs, time::Duration};

use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::{
    bad_input::{cases::Case, check},
    peers::{kafka::Broker, pipeline::finish},
};

const TOPIC: &str = "odd";

#[test]
fn each_message_of_a_topic_has_its_outcome() {
    let folder = tempfile::tempdir().expect("a folder");
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let stream = check::stream(folder.path());
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.address())
        .create()
        .expect("a producer");
    for case in &stream {
        let headers = case.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let mut record = BaseRecord::<[u8], [u8]>::to(TOPIC).partition(0).headers(headers);
        record = match &case.key {
            Some(key) => record.key(key),
            None => record,
        };
        record = match &case.value {
            Some(value) => record.payload(value),
            None => record,
        };
        producer.send(record).map_err(|(error, _)| error).expect("it is taken");
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(60)).expect("they are sent");

    let config = folder.path().join("everpair.toml");
    let brokers = broker.address();
    let source = format!("[source]\nbrokers = {brokers:?}\ntopics = [{TOPIC:?}]\n");
    fs::write(&config, check::config(&source)).expect("it is writable");
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_everpair"));
    let (code, out, err) = finish(run.args(["run", "--until-caught-up", "--config"]).arg(&config));
    assert_eq!(code, Some(0), "{out}{err}");
    check::check(&config, &stream.iter().collect::<Vec<&Case>>());
}
