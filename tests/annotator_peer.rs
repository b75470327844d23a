//! Images from a real Kafka, and a model that is asked about their pairs.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
};

use everpair::{
    annotator::openai::{journal, money::Spent},
    scenes,
    source::kafka::TopicWriter,
};
use schemas::tables::{AnnotationRow, ImageRow, PairRow, TripletRow};

use crate::{
    model::{Asked, Server, send_good},
    peers::kafka::Broker,
    place::{Message, Place},
};

const SEED: u64 = 11;
const TOPIC: &str = "images";
/// Calls at once, and so the most that a kill can make again.
const AT_ONCE: usize = 4;

fn send(broker: &Broker, messages: impl Iterator<Item = Message>) {
    let mut writer =
        TopicWriter::open(&broker.address(), TOPIC, &BTreeMap::new()).expect("a writer");
    for (tag, message) in messages.enumerate() {
        let value = message.value.as_deref();
        writer.append(tag, &message.key, value, &message.headers, 0).expect("it is taken");
    }
    writer.flush().expect("they are sent");
    let failed = writer.fates().into_iter().find(|(_, fate)| fate.is_err());
    assert_eq!(failed, None);
}

fn triplets(place: &Place) -> Vec<(String, String)> {
    let rows = place.rows::<TripletRow>("tables").into_iter();
    let mut found: Vec<_> = rows.map(|row| (row.query_id, row.target_id)).collect();
    found.sort();
    found
}

fn pairs(place: &Place) -> Vec<(String, String)> {
    let rows = place.rows::<PairRow>("tables").into_iter();
    let mut found: Vec<_> = rows.map(|row| (row.query_id, row.target_id)).collect();
    found.sort();
    found
}

/// A service that is killed while its model answers, and started again; then an image is taken down
/// and others come. Every pair has its triplet, and nothing is asked twice but what was in flight.
#[test]
fn pairs_of_a_topic_are_asked_about_once() {
    let server = Server::start(|asked: &Asked, stream| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        send_good(asked, stream);
    });
    let broker = Broker::start();
    broker.create_topic(TOPIC, 3);
    let place = Place::new();
    let config = format!(
        "[source]\nbrokers = \"{}\"\ntopics = [\"{TOPIC}\"]\n[tables]\nroot = \"tables\"\n\
         [epoch]\nrows = 20\n[triplets]\nkeep = \"mined\"\n\
         [annotator]\nkind = \"openai\"\nurl = {:?}\nmodel = \"a-model\"\nbudget = 10.0\n\
         input_price = 1.0\noutput_price = 2.0\nsettle = \"0 s\"\nconcurrency = {AT_ONCE}\n",
        broker.address(),
        server.url()
    );
    fs::write(place.path("tables.toml"), config).expect("the folder is writable");
    println!("scenes {SEED}");
    send(&broker, scenes::scenes(60, SEED).map(Message::from));

    let mut running = place.start("tables");
    running.wait_until("some calls", || server.asked().len() >= 40);
    running.kill();
    let waiting = journal::read(&place.store("tables")).expect("a list");
    let rows = waiting.into_iter().chain(place.rows::<AnnotationRow>("tables"));
    let known: HashSet<String> = rows.map(|row| row.request_id).collect();
    assert!(known.len() > 20, "{} answers", known.len());
    let before = server.asked().len();
    place.catch_up("tables");
    let asked = server.asked();
    assert!(asked[before..].iter().all(|asked| !known.contains(&asked.id)));
    let repeated = asked.len() - server.by_id().len();
    assert!(repeated <= AT_ONCE, "{repeated} calls were made again");
    place.verify("tables");
    let first = pairs(&place);
    assert!(first.len() > 50, "{} pairs", first.len());
    assert_eq!(triplets(&place), first);

    // Later messages of the topic.
    let gone = first[0].0.clone();
    let more = scenes::scenes(70, SEED).skip(60).map(Message::from);
    send(&broker, more.chain([Message::tombstone(&gone)]));
    let known: HashSet<String> =
        place.rows::<AnnotationRow>("tables").into_iter().map(|row| row.request_id).collect();
    server.forget();
    place.catch_up("tables");
    place.verify("tables");
    assert!(place.rows::<ImageRow>("tables").iter().all(|row| row.image_id != gone));
    let second = pairs(&place);
    assert_ne!(first, second);
    assert_eq!(triplets(&place), second);
    let rows = place.rows::<AnnotationRow>("tables");
    let ids: HashSet<&str> = rows.iter().map(|row| row.request_id.as_str()).collect();
    assert_eq!(ids.len(), rows.len(), "an outcome each");
    let asked = server.by_id();
    assert!(!asked.is_empty() && asked.values().all(|times| *times == 1), "{asked:?}");
    assert!(asked.keys().all(|id| !known.contains(id)), "what has its answer is not asked");
    let cost: f64 = rows.iter().filter_map(|row| row.cost_usd).sum();
    let spent = Spent::read(&place.store("tables"), 0).expect("slices");
    // What was open at the kill counts as spent, and is in no row.
    assert!(cost <= (spent.closed + spent.open) as f64 / 1e9 + 1e-9, "{cost} and {spent:?}");

    server.forget();
    place.catch_up("tables");
    assert_eq!(server.counts(), (0, 0));
}
