//! Every limit of the service, in one place, with the inequalities between them.
//!
//! A limit that a person may change is a config key whose default stands here.

use std::time::Duration;

/// Longest image id, in bytes of UTF-8.
pub const IMAGE_ID_BYTES_MAX: usize = 512;
/// Longest caption, uri, source or licence, in bytes; captions of alt-text corpora stay far below.
pub const TEXT_BYTES_MAX: usize = 16 << 10;
/// Longest `attributes`, in bytes of JSON.
pub const ATTRIBUTES_BYTES_MAX: usize = 64 << 10;
/// Largest encoded image, in bytes.
pub const ENCODED_BYTES_MAX: usize = 32 << 20;
/// Largest number of pixels of an image: Pillow's own limit against decompression bombs.
pub const PIXELS_MAX: u64 = 89_478_485;
/// Longest side of an image, in pixels.
pub const SIDE_MAX: u32 = 30_000;
/// Long side of the pixels that travel to the built-in encoders.
pub const ENCODER_SIDE_MAX: u32 = 256;
/// The most bytes of a checkpoint's file of settings; a tokenizer for many languages has 35 MB.
pub const ENCODER_TEXT_BYTES_MAX: u64 = 128 << 20;
/// Long side of the copy kept in `contents`, as the MegaPairs authors released theirs.
pub const STORED_SIDE_MAX: u32 = 512;
/// JPEG quality of that copy.
pub const STORED_JPEG_QUALITY: u8 = 90;

/// Longest line of a file log: the largest image in base64, with room for the rest.
pub const LOG_LINE_BYTES_MAX: usize = 2 * ENCODED_BYTES_MAX;
/// Files of a file log, all of which are held open.
pub const LOG_FILES_MAX: usize = 1_024;
/// Bytes of a file log that are read at once, per file.
pub const LOG_READ_BYTES: usize = 64 << 10;
/// Bytes of a file log, per file, that are read at once to see how far its end is.
pub const LOG_COUNT_BYTES: usize = 8 << 20;
/// Bytes of whole lines that are written to a file log at once.
pub const LOG_WRITE_BYTES: usize = 1 << 20;
/// Bytes that Kafka's client fetches ahead.
pub const KAFKA_AHEAD_BYTES: usize = 64 << 20;
/// Bytes of one partition that Kafka's client asks for at once; a larger message still comes.
pub const KAFKA_FETCH_BYTES: usize = 4 << 20;

/// Largest image that `push` reads, so that it can be made smaller, or stored beside the topic.
pub const PUSH_BYTES_MAX: usize = 256 << 20;
/// Longest caption file and JSON beside an image that `push` reads.
pub const PUSH_SIDECAR_BYTES_MAX: usize = 16 << 20;
/// Rows of a Parquet file that `push` holds at once.
pub const PUSH_ROWS_AT_ONCE: usize = 8;
/// Images of a tar or a Parquet file that `push` reads ahead.
pub const PUSH_AHEAD: usize = 4;
/// Failures, skips and so on that a report of `push` names one by one; it counts all of them.
pub const PUSH_NAMED_MAX: usize = 10_000;
/// Bytes of one Kafka message where the topic does not tell how many it takes.
pub const MESSAGE_BYTES: usize = 1_000_000;
/// Longest time for one try to fetch a `uri`.
pub const FETCH_TIME: Duration = Duration::from_secs(30);
/// Largest `[fetch] timeout`: a record that waits for its bytes holds up its partition.
pub const FETCH_TIME_MAX: Duration = Duration::from_secs(600);
/// Longest time until a connection stands.
pub const FETCH_CONNECT_TIME: Duration = Duration::from_secs(5);
/// Tries to fetch a `uri`.
pub const FETCH_ATTEMPTS: usize = 3;
/// Requests to one host at once: polite to those that never asked for this.
pub const FETCH_PER_HOST: usize = 4;
/// Requests at once.
pub const FETCH_IN_FLIGHT: usize = 64;
/// Largest `[fetch] in_flight`.
pub const FETCH_IN_FLIGHT_MAX: usize = 1_024;
/// Hosts that are remembered between requests to them.
pub const FETCH_HOSTS: usize = 1_024;
/// Redirects of one request that are followed.
pub const FETCH_REDIRECTS: usize = 5;
/// Shortest and longest wait between two tries, whatever a server asks for.
pub const FETCH_BACKOFF: (Duration, Duration) =
    (Duration::from_millis(250), Duration::from_secs(30));
/// Images that an audit ranks a target among, and the most; beside what was retrieved for its query.
pub const AUDIT_GALLERY: usize = 1_000;
/// Largest `[audit] gallery`, and rank.
pub const AUDIT_GALLERY_MAX: usize = 100_000;
/// A target at this rank or before it is found, as in the audit of CIRCUS (arXiv 2605.14787).
pub const AUDIT_FOUND_WITHIN: u32 = 10;
/// Images that a judge sees beside the target, where the config does not say.
pub const JUDGE_NEGATIVES: usize = 4;
/// The most: with the target and the query no more than servers of open models take by default.
pub const JUDGE_NEGATIVES_MAX: usize = 9;
/// So many times as many images as ranks that count as found are the fewest that say anything: among
/// fewer, chance finds more than one target in ten.
pub const AUDIT_CHANCE: usize = 10;
/// Calls of an annotator at once, unless another number is chosen.
pub const ANNOTATOR_CONCURRENCY: usize = 16;
/// Largest `[annotator] concurrency`.
pub const ANNOTATOR_CONCURRENCY_MAX: usize = 1_024;
/// Calls at once that an annotator begins with.
pub const ANNOTATOR_CONCURRENCY_FIRST: f64 = 4.0;
/// Longest time for one call of an annotator, and the most that may be chosen.
pub const ANNOTATOR_TIME: Duration = Duration::from_secs(120);
/// Largest `[annotator] timeout`.
pub const ANNOTATOR_TIME_MAX: Duration = Duration::from_secs(3_600);
/// Tries of one call of an annotator.
pub const ANNOTATOR_ATTEMPTS: u32 = 4;
/// Failures in a row after which an endpoint counts as down: it is tried by one call at a time then,
/// and what fails meanwhile is no request's fault.
pub const ANNOTATOR_DOWN: u32 = 10;
/// Requests that an endpoint which has taken none yet may call bad, before that is taken for what
/// all requests have in common: each is an outcome that is stored for good.
pub const ANNOTATOR_BAD_REQUESTS: u32 = 8;
/// How long an endpoint that is down, or refuses all, is left alone between two tries.
pub const ANNOTATOR_DOWN_WAIT: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(60));
/// How long an endpoint may be down before `--until-caught-up` gives up.
pub const ANNOTATOR_DOWN_MAX: Duration = Duration::from_secs(600);
/// Shortest and longest wait between two tries of one call.
pub const ANNOTATOR_BACKOFF: (Duration, Duration) =
    (Duration::from_millis(500), Duration::from_secs(8));
/// How long a request is put off whose tries have all failed through no fault of its own: the first
/// time, and at most.
pub const ANNOTATOR_PUT_OFF: (Duration, Duration) =
    (Duration::from_secs(300), Duration::from_secs(6 * 3_600));
/// How often, before its failure is its outcome.
pub const ANNOTATOR_PUT_OFF_TIMES: u32 = 6;
/// Longest wait that an endpoint may ask for.
pub const ANNOTATOR_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Most tokens of one answer.
pub const ANNOTATOR_TOKENS: u64 = 600;
/// Tokens that an image of long side 512 is read as, at most, by the models that there are.
pub const ANNOTATOR_IMAGE_TOKENS: u64 = 1_500;
/// Tokens that a chat's frame takes, at most.
pub const ANNOTATOR_FRAME_TOKENS: u64 = 64;
/// Most characters of a caption that a model writes.
pub const ANNOTATOR_CAPTION_CHARS: usize = 1_000;
/// Largest answer of an endpoint, bytes.
pub const ANNOTATOR_REPLY_BYTES: usize = 4 << 20;
/// How long a pair must have held before a model is asked about it.
pub const ANNOTATOR_SETTLE: Duration = Duration::from_secs(600);
/// Largest budget or price, USD.
pub const ANNOTATOR_USD_MAX: f64 = 1e9;
/// Slices that a budget is drawn in.
pub const ANNOTATOR_SLICES: u64 = 100;
/// Bytes of images that wait to be sent once more.
pub const ANNOTATOR_IMAGE_BYTES: usize = 64 << 20;
/// Answers that wait for a judge; while there are more, nothing new is asked for.
pub const ANNOTATOR_JUDGED: usize = 1_000;
/// How often pairs are ordered anew by what they are worth, where money is scarce, and the most of the
/// time that it may take: one part in so many. It reads `images` and `pairs`.
pub const ANNOTATOR_ORDER_INTERVAL: Duration = Duration::from_secs(60);
/// See [`ANNOTATOR_ORDER_INTERVAL`].
pub const ANNOTATOR_ORDER_SHARE: u32 = 20;
/// The first and the last moment that a record's timestamp can be, microseconds since 1970: of the years
/// 1 and 9999.
pub const TIMESTAMPS_US: (i64, i64) = (-62_135_596_800_000_000, 253_402_300_799_999_999);
/// What an endpoint's limit per minute lets through at once: that of so many seconds.
pub const ANNOTATOR_BURST_SECONDS: f64 = 5.0;
/// Most requests of one batch, and most bytes of its file: what OpenAI takes (200 MB) with room to
/// spare.
pub const ANNOTATOR_BATCH: (usize, u64) = (50_000, 190_000_000);
/// Descriptions that are held for the pair's other direction; older ones are read from the table.
pub const ANNOTATOR_DESCRIPTIONS: usize = 100_000;
/// Descriptions that are looked for at once, which takes a pass over the table.
pub const ANNOTATOR_LOOK_UP: usize = 10_000;
const _: () = assert!(ANNOTATOR_LOOK_UP <= ANNOTATOR_DESCRIPTIONS);

/// Records read ahead of the first one whose bytes are still on their way.
pub const FETCH_AHEAD_ROWS: usize = 1_024;
/// Bytes of those records, fetched ones included; the one that all others wait for may be over it.
pub const FETCH_AHEAD_BYTES: usize = 256 << 20;

/// How often a service looks for requests of other commands in a folder.
pub const REQUESTS_INTERVAL_FOLDER: Duration = Duration::from_millis(250);
/// The same in an object store, where each look is paid for: half a million a month.
pub const REQUESTS_INTERVAL_REMOTE: Duration = Duration::from_secs(5);
/// How long a start waits for its first look, so that what was asked for meanwhile is in its first
/// epoch; a store that does not answer must not keep it any longer.
pub const REQUESTS_FIRST_LOOK: Duration = Duration::from_secs(2);
/// Messages that one request may have read again; more become several requests.
pub const REPLAY_ROWS: usize = 100_000;
/// How long a replay waits for a source that gives nothing.
pub const REPLAY_PATIENCE: Duration = Duration::from_secs(60);

/// How long `gc` waits until a service takes its request.
pub const GC_PATIENCE: Duration = Duration::from_secs(15);
/// How often a service that has a request of `gc` says that it lives.
pub const GC_SIGN_INTERVAL: Duration = Duration::from_secs(2);
/// How long `gc` waits for such a sign, while the store answers. A service that cannot reach the
/// store for longer than this looks like one that is gone; then nothing is lost, as the request
/// stays.
pub const GC_SILENCE: Duration = Duration::from_secs(45);
/// How often `gc` tells what it waits for.
pub const GC_WORD_INTERVAL: Duration = Duration::from_secs(10);
/// Reports of collections that are kept.
pub const GC_REPORTS_KEPT: usize = 10;
/// Findings that a report of one names; it counts all of them.
pub const GC_FINDINGS_SHOWN: usize = 100;

/// Rows of an epoch.
pub const EPOCH_ROWS: usize = 10_000;
/// Encoded bytes of an epoch.
pub const EPOCH_BYTES: usize = 256 << 20;
/// Longest wait for more messages where the tables are in a folder.
pub const LINGER_FOLDER: Duration = Duration::from_secs(1);
/// Longest wait for more messages where the tables are in an object store.
pub const LINGER_REMOTE: Duration = Duration::from_secs(60);
/// Epochs that may be between the source and the last commit: the only flow control there is.
pub const EPOCHS_IN_FLIGHT: u64 = 3;
/// A state checkpoint is written when as many messages came since the last one as are this part of
/// the live images: writing is linear in them, and so is what one of these messages costs a start.
pub const STATE_MESSAGES_PER_IMAGE: f64 = 0.02;
/// Fewer messages than these are no reason for one.
pub const STATE_MESSAGES_MIN: usize = 1_000;
/// With fewer messages one is written after as long a time, so that a quiet service has one too.
pub const STATE_INTERVAL: Duration = Duration::from_secs(600);
/// Images encoded in one batch.
pub const ENCODE_BATCH: usize = 64;
/// Jobs that one operator has with the threads beside the dataflow at once.
pub const OFFLOAD_JOBS: usize = 8;

/// Tries of one request to an object store after the first: so many that the time decides.
pub const STORE_RETRIES: usize = 10_000;
/// Longest wait between two tries.
pub const STORE_BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Longest time for all tries of one request: then the service stops, and resumes when started.
pub const STORE_RETRY_TIME: Duration = Duration::from_secs(120);
/// Longest time for one try.
pub const STORE_REQUEST_TIME: Duration = Duration::from_secs(30);
/// Longest time until a connection stands.
pub const STORE_CONNECT_TIME: Duration = Duration::from_secs(5);
/// Objects larger than this go up in parts, each with tries and a time limit of its own.
pub const STORE_PART_BYTES: usize = 16 << 20;
/// Parts of one object that are on their way at once.
pub const STORE_PARTS_AT_ONCE: usize = 4;

/// Objects that are read at once where many small ones are.
pub const STORE_READS_AT_ONCE: usize = 16;
/// Commits of a table's log that are held at once while it is read.
pub const LOG_COMMITS_AT_ONCE: u64 = 64;

/// Longest time that a service takes to stop: what it has not committed by then, the next start does.
pub const STOP_WITHIN: Duration = Duration::from_secs(30);
/// Files of one tier of size that are made into one: few enough to be read at once, so many that
/// this is not done at every epoch.
pub const COMPACT_FILES: usize = 16;
/// Upper ends of the tiers, in bytes; a file past the last one is never made larger. A row is
/// written again at most once per tier.
pub const COMPACT_TIERS: [u64; 3] = [32 << 10, 512 << 10, 4 << 20];
/// Bytes of live rows that are written again in one step, which is between two epochs.
pub const COMPACT_BYTES: u64 = 32 << 20;
/// Rows that are held in memory for that; the file that goes past it is still taken.
pub const COMPACT_MEMORY: usize = 96 << 20;
/// Contents that no live image has any more and whose rows stay at least: about 50 MB of memory with
/// three channels of 768 components.
pub const CONTENTS_KEPT_DEAD: u64 = 10_000;
/// Epochs after which another table is looked at for what can be removed.
pub const RETAIN_EPOCHS: u64 = 16;
/// A quiet service looks after as long a time.
pub const RETAIN_INTERVAL: Duration = Duration::from_secs(60);
/// How long objects stay that no kept version needs: long enough for a query that began before the
/// epoch that it reads was let go, short enough that a folder with an epoch a second stays small.
pub const RETENTION: Duration = Duration::from_secs(3600);
/// Names of generations that are kept; only the newest counts.
pub const GENERATIONS_KEPT: usize = 16;

/// How often a service with nothing to commit looks whether another one has taken over.
pub const FENCE_INTERVAL: Duration = Duration::from_secs(10);

const _: () = assert!(COMPACT_TIERS[2] * 2 <= COMPACT_BYTES, "full files come of full steps");

/// Messages behind the end of the source up to which a service is ready: an epoch.
pub const READY_LAG: u64 = EPOCH_ROWS as u64;
/// Longest time without a commit while there is work, of a service that is ready.
pub const READY_AGE: Duration = Duration::from_secs(300);
/// A thread without a sign of life for so long is stuck. One request to a store may take
/// [`STORE_RETRY_TIME`], and a commit makes a few.
pub const STUCK_AFTER: Duration = Duration::from_secs(600);
/// Connections that the console has at once; others wait.
pub const CONSOLE_CONNECTIONS: usize = 64;
/// Longest wait of the console for a request's head.
pub const CONSOLE_HEAD_TIME: Duration = Duration::from_secs(2);
/// Longest time that a connection to the console may last.
pub const CONSOLE_CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Largest head of a request to the console, in bytes.
pub const CONSOLE_HEAD_BYTES: usize = 16 << 10;

/// Neighbours per image, channel and band.
pub const NEIGHBORS: usize = 10;
/// Largest `neighbors`.
pub const NEIGHBORS_MAX: usize = 1_000;
/// Entries kept past `neighbors`, so that a delete seldom needs a new scan.
pub const NEIGHBORS_SLACK: usize = 6;
/// Targets per query.
pub const TARGETS_PER_QUERY: usize = 3;
/// Hard negatives per pair.
pub const HARD_NEGATIVES: usize = 5;
/// Widest vector of an encoder.
pub const DIM_MAX: usize = 4_096;
/// Answers that enter with one epoch. While more wait for their audit or their commit, no call is made.
pub const ANSWERS_PER_EPOCH: usize = 20_000;

/// Images of one benchmark. With two channels of 768 components such a one takes 620 MiB of memory.
pub const BENCHMARK_IMAGES_MAX: usize = 200_000;
/// Benchmarks that are blocked, later versions of one counted.
pub const BENCHMARKS_MAX: usize = 100;
/// Bits of 64 in which perceptual hashes of an image and its copies may differ. Between two halves of
/// 796 clip-art images one pair in 158,404 comes as near; of copies through JPEG of quality 60 or
/// half the size 94 to 96 % do. `tests/benchmark_peer.rs` prints what 6 and 8 bits would do.
pub const BENCHMARK_PHASH_BITS: u32 = 4;
/// Most bits that a person may choose: chance begins here.
pub const BENCHMARK_PHASH_BITS_MAX: u32 = 16;
/// Bits that are set in a perceptual hash that means something: half of them, as it is above the
/// median. A picture of one colour has one, and looks like every other such picture.
pub const BENCHMARK_PHASH_ONES_MIN: u32 = 24;
/// Contents that one worker remembers as none of any benchmark's, so that a message that comes
/// again is not encoded again. 32 MiB.
pub const BENCHMARK_CLEAN_MAX: usize = 1 << 20;

/// Images that `calibrate` samples: 2·10⁸ pairs, whose 99.5 % quantile moves by less than a step.
pub const CALIBRATE_SAMPLE: usize = 20_000;
/// Largest sample: scores are counted for all pairs of it.
pub const CALIBRATE_SAMPLE_MAX: usize = 200_000;
/// Images of the sample of which mild copies are made, four each.
pub const CALIBRATE_COPIED: usize = 1_000;
/// Images of the sample that may be on its page.
pub const CALIBRATE_PICTURED: usize = 2_000;
/// Long side of a picture on the page, pixels.
pub const CALIBRATE_THUMB_SIDE: u32 = 160;
/// JPEG quality of a picture on the page.
pub const CALIBRATE_THUMB_QUALITY: u8 = 80;
/// Copies that there must be before their quantile means something.
pub const CALIBRATE_COPIES_MIN: usize = 40;
/// Bits of 64 in which perceptual hashes of one picture may differ.
pub const CALIBRATE_PHASH_BITS: u32 = 4;
/// Pairs of near-identical images of the corpus itself that are looked at.
pub const CALIBRATE_NATURAL: usize = 100_000;
/// Most sub-bands.
pub const CALIBRATE_SUB_BANDS_MAX: usize = 16;

const _: () = assert!(CALIBRATE_SAMPLE <= CALIBRATE_SAMPLE_MAX);
const _: () = assert!(CALIBRATE_COPIED <= CALIBRATE_PICTURED);

/// Files of tables that a start reads at the same time, at most.
pub const RESTORE_THREADS_MAX: usize = 64;
/// And at least where they are in an object store, whose answers take their time.
pub const RESTORE_THREADS_REMOTE: usize = 8;
/// How often a start says how far it is.
pub const RESTORE_SAID_EVERY: Duration = Duration::from_secs(3);
/// How often it is looked whether the start is done.
pub const RESTORE_LOOK: Duration = Duration::from_millis(100);

/// Rows of a table file that are read at once, and the bytes that they may come to.
pub const READ_ROWS: usize = 1_024;
/// Bytes of a table file that are read at once; one row more than this still comes.
pub const READ_BYTES: usize = 32 << 20;
/// Bytes of pictures that an export holds at once; one row more than this still goes out.
pub const EXPORT_BATCH_BYTES: usize = 16 << 20;
/// Largest row group of an export, bytes before encoding: viewers and streaming readers hold one.
pub const EXPORT_GROUP_BYTES: usize = 100_000_000;
/// Most rows of a row group of an export.
pub const EXPORT_GROUP_ROWS: usize = 100_000;
/// Largest file of an export, bytes, unless another size is asked for.
pub const EXPORT_FILE_BYTES: usize = 512_000_000;
/// Longest list of licences, sources or models in an export's card; the rest is counted together.
pub const CARD_ROWS: usize = 20;

const _: () = assert!(ENCODED_BYTES_MAX <= EPOCH_BYTES, "an epoch must hold the largest image");
const _: () = assert!(LOG_LINE_BYTES_MAX >= ENCODED_BYTES_MAX / 3 * 4 + 4 * TEXT_BYTES_MAX);
const _: () = assert!(KAFKA_AHEAD_BYTES >= ENCODED_BYTES_MAX, "or the largest image never fits");
const _: () = assert!(PUSH_BYTES_MAX >= ENCODED_BYTES_MAX, "what fits must be read whole");
const _: () = assert!(ENCODER_SIDE_MAX <= STORED_SIDE_MAX);
const _: () = assert!(FETCH_IN_FLIGHT <= FETCH_IN_FLIGHT_MAX && FETCH_PER_HOST <= FETCH_IN_FLIGHT);
const _: () = assert!(FETCH_AHEAD_BYTES >= ENCODED_BYTES_MAX);
const _: () = assert!(STORED_SIDE_MAX <= SIDE_MAX);
const _: () = assert!(TARGETS_PER_QUERY <= NEIGHBORS && NEIGHBORS <= NEIGHBORS_MAX);
const _: () = assert!(GC_SIGN_INTERVAL.as_secs() * 10 <= GC_SILENCE.as_secs());
const _: () = assert!(REQUESTS_INTERVAL_REMOTE.as_secs() * 2 < GC_PATIENCE.as_secs());
const _: () = assert!(READ_BYTES <= EXPORT_GROUP_BYTES && EXPORT_BATCH_BYTES <= EXPORT_GROUP_BYTES);
const _: () = assert!(EXPORT_GROUP_BYTES <= EXPORT_FILE_BYTES);
