//! The memo of vectors: answers requests, has encoded what it lacks, and says what it learnt.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use kernels::vector::to_le_bytes;
use schemas::{Channel, ContentId, Epoch, limits, tables::EmbeddingRow};
use serde::{Deserialize, Serialize};
use timely::dataflow::{
    StreamVec,
    channels::pact::Exchange,
    operators::{Capability, generic::Operator},
};

use super::Encoders;
use crate::{
    epochs::Stash,
    flow::Picture,
    offload::{Offload, Pool},
};

/// What an encoder reads: the image of this id, or the caption of this id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) enum Reads {
    Image(ContentId),
    Caption(ContentId),
}

impl Reads {
    pub fn of(channel: Channel, content_id: ContentId) -> Reads {
        match channel {
            Channel::Caption => Reads::Caption(content_id),
            _ => Reads::Image(content_id),
        }
    }

    pub fn content_id(self) -> ContentId {
        match self {
            Reads::Image(id) | Reads::Caption(id) => id,
        }
    }

    fn channels(self) -> &'static [Channel] {
        match self {
            Reads::Image(_) => &[Channel::Semantic, Channel::Pattern],
            Reads::Caption(_) => &[Channel::Caption],
        }
    }
}

/// What one worker hears of the contents that it owns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ToMemo {
    /// From the table; of the encoders in force.
    Known(Channel, ContentId, Vector),
    Picture(Arc<Picture>),
    Given(Channel, ContentId, Arc<[i16]>),
    /// The worker that wants the vectors, and the caption's text.
    Request(Reads, usize, Option<Arc<str>>),
}

impl ToMemo {
    fn route(&self) -> u64 {
        match self {
            ToMemo::Known(_, content_id, _) => content_id.hash64(),
            ToMemo::Picture(picture) => picture.content_id.hash64(),
            ToMemo::Given(_, content_id, _) => content_id.hash64(),
            ToMemo::Request(reads, ..) => reads.content_id().hash64(),
        }
    }
}

pub(super) type Vector = Option<Arc<[i16]>>;

/// The vectors of one content; only those of [`Reads::channels`] are meant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub reads: Reads,
    pub vectors: [Vector; 3],
}

pub(super) type ToldByMemo = Result<(usize, Answer), EmbeddingRow>;

/// An epoch whose vectors are being computed.
struct Running {
    capability: Capability<Epoch>,
    requests: Vec<(Reads, usize)>,
    rows: Vec<EmbeddingRow>,
}

/// Answers requests, epoch by epoch, and says what it had to find out.
pub(super) fn remember<'s>(
    told: StreamVec<'s, Epoch, ToMemo>,
    encoders: Arc<Encoders>,
    pool: Arc<Pool>,
) -> StreamVec<'s, Epoch, ToldByMemo> {
    let scope = told.scope();
    told.unary_frontier(Exchange::new(ToMemo::route), "Remember", move |_, info| {
        let wake = scope.worker().sync_activator_for(info.address.to_vec());
        let mut offload: Offload<(Channel, Vec<ContentId>), Vec<Vector>> = Offload::new(pool, wake);
        let mut memo = Memo::new(encoders);
        let mut stash = Stash::default();
        let mut running: Option<Running> = None;
        move |(input, frontier), output| {
            input.for_each_stamp(|capability, data| {
                if let Some(capability) = capability.retain_least(output.output_index()) {
                    stash.rows(capability).extend(data.flat_map(|rows| rows.drain(..)));
                }
            });
            loop {
                let Some(epoch) = &mut running else {
                    let Some((capability, told)) = stash.next_closed(frontier) else { break };
                    let (requests, rows) = memo.hear(told, &mut offload);
                    running = Some(Running { capability, requests, rows });
                    continue;
                };
                while let Some(((channel, ids), vectors)) = offload.next_answer() {
                    assert_eq!(ids.len(), vectors.len(), "an encoder answers for each of a batch");
                    for (id, vector) in ids.into_iter().zip(vectors) {
                        epoch.rows.push(memo.learn(channel, id, vector));
                    }
                }
                if !offload.is_idle() {
                    break;
                }
                let Running { capability, requests, mut rows } =
                    running.take().expect("it is running");
                rows.sort_unstable();
                let answers = requests.iter().map(|&(reads, worker)| (worker, memo.answer(reads)));
                let mut session = output.session(&capability);
                session.give_iterator(answers.map(Ok));
                session.give_iterator(rows.into_iter().map(Err));
            }
        }
    })
}

/// The vectors of one worker's contents. Those of dead contents stay: they may come back, and what
/// is in the table is never computed again.
struct Memo {
    encoders: Arc<Encoders>,
    ids: [Option<String>; 3],
    vectors: HashMap<(Channel, ContentId), Vector>,
}

impl Memo {
    fn new(encoders: Arc<Encoders>) -> Memo {
        let ids = Channel::ALL.map(|channel| encoders.id(channel));
        Memo { encoders, ids, vectors: HashMap::new() }
    }

    /// Takes in an epoch, has what is missing encoded, and returns the requests to answer then with
    /// the rows that are new already.
    fn hear(
        &mut self,
        told: Vec<ToMemo>,
        offload: &mut Offload<(Channel, Vec<ContentId>), Vec<Vector>>,
    ) -> (Vec<(Reads, usize)>, Vec<EmbeddingRow>) {
        let (mut given, mut requests) = (Vec::new(), Vec::new());
        let mut pictures: HashMap<ContentId, Arc<Picture>> = HashMap::new();
        let mut captions: HashMap<ContentId, Arc<str>> = HashMap::new();
        for row in told {
            match row {
                ToMemo::Known(channel, id, vector) => {
                    self.vectors.insert((channel, id), vector);
                }
                ToMemo::Picture(picture) => drop(pictures.insert(picture.content_id, picture)),
                ToMemo::Given(channel, id, vector) => given.push((channel, id, vector)),
                ToMemo::Request(reads, worker, text) => {
                    requests.push((reads, worker));
                    captions.extend(text.map(|text| (reads.content_id(), text)));
                }
            }
        }
        let mut rows = Vec::new();
        // Of several vectors for one content the first in order is it, whoever came first.
        given.sort_unstable();
        for (channel, id, vector) in given {
            if self.ids[channel.index()].is_some() && !self.vectors.contains_key(&(channel, id)) {
                rows.push(self.learn(channel, id, Some(vector)));
            }
        }
        requests.sort_unstable();
        requests.dedup();
        let wanted: BTreeSet<Reads> = requests.iter().map(|(reads, _)| *reads).collect();
        for channel in Channel::ALL {
            let missing: Vec<ContentId> = wanted
                .iter()
                .filter(|reads| reads.channels().contains(&channel))
                .map(|reads| reads.content_id())
                .filter(|id| !self.vectors.contains_key(&(channel, *id)))
                .collect();
            if self.encoders.given[channel.index()].is_some() {
                // Remembered as none, or a restart could find one that came too late.
                rows.extend(missing.into_iter().map(|id| self.learn(channel, id, None)));
                continue;
            }
            for batch in missing.chunks(limits::ENCODE_BATCH) {
                self.encode(channel, batch, &pictures, &captions, offload);
            }
        }
        (requests, rows)
    }

    fn encode(
        &self,
        channel: Channel,
        ids: &[ContentId],
        pictures: &HashMap<ContentId, Arc<Picture>>,
        captions: &HashMap<ContentId, Arc<str>>,
        offload: &mut Offload<(Channel, Vec<ContentId>), Vec<Vector>>,
    ) {
        let tag = (channel, ids.to_vec());
        if channel == Channel::Caption {
            let Some(encoder) = self.encoders.text.clone() else { return };
            let texts: Vec<Arc<str>> = ids.iter().map(|id| captions[id].clone()).collect();
            offload.submit(tag, move || {
                let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
                checked(encoder.encode(&texts), encoder.dim())
            });
            return;
        }
        let Some(encoder) = self.encoders.image[channel.index()].clone() else { return };
        let pictures: Vec<Arc<Picture>> = ids
            .iter()
            .map(|id| match pictures.get(id) {
                Some(picture) => picture.clone(),
                None => panic!(
                    "I8: {id:?} is mined, and there is neither its {} vector in `embeddings` nor \
                     its picture",
                    channel.as_str()
                ),
            })
            .collect();
        offload.submit(tag, move || {
            checked(Picture::encode(&pictures, &*encoder, channel.index()), encoder.dim())
        });
    }

    /// Remembers a vector, or that there is none, and returns the memo's row of it.
    fn learn(&mut self, channel: Channel, id: ContentId, vector: Vector) -> EmbeddingRow {
        let before = self.vectors.insert((channel, id), vector.clone());
        assert!(before.is_none(), "I8: {id:?} was encoded twice for {}", channel.as_str());
        EmbeddingRow {
            content_id: id.hex(),
            channel: channel.as_str().into(),
            encoder: self.ids[channel.index()].clone().expect("only encoders give vectors"),
            dim: vector.as_ref().map_or(0, |vector| vector.len() as i32),
            vector: vector.as_deref().map(to_le_bytes).unwrap_or_default(),
            epoch: 0,
        }
    }

    fn answer(&self, reads: Reads) -> Answer {
        let mut vectors = [None, None, None];
        for channel in reads.channels() {
            let vector = self.vectors.get(&(*channel, reads.content_id()));
            vectors[channel.index()] = vector.cloned().flatten();
        }
        Answer { reads, vectors }
    }
}

fn checked(vectors: Vec<Option<Box<[i16]>>>, dim: usize) -> Vec<Vector> {
    let vectors = vectors.into_iter().map(|vector| vector.map(Arc::from));
    vectors
        .inspect(|vector: &Vector| {
            let has = vector.as_ref().map_or(dim, |vector| vector.len());
            assert_eq!(has, dim, "an encoder's vectors have its dimension");
        })
        .collect()
}
