//! Annotate: what is to be asked is what is mined and not yet answered.

use std::sync::Arc;

use differential_dataflow::VecCollection;
use schemas::{ContentId, Epoch, caption_text};

use crate::flow::{Mined, ModelId, Pair, Request};

/// Work = mined pairs − memo, by request.
///
/// `answered` holds the ids of all requests in the memo, failures too: a stored outcome is never
/// asked for again (I8). At each epoch a request leaves with +1 when it becomes wanted and with −1
/// when it is answered or no longer wanted, never both. Only what determines the answer is in a
/// request: captions are trimmed, and left out for a model that does not read them, so that a
/// caption that changes nothing asks nothing.
pub fn annotate<'s>(
    pairs: VecCollection<'s, Epoch, Pair, isize>,
    mined: VecCollection<'s, Epoch, Mined, isize>,
    answered: VecCollection<'s, Epoch, String, isize>,
    model: &ModelId,
) -> VecCollection<'s, Epoch, Request, isize> {
    let model = model.clone();
    let by_id = mined.map(|m| (m.image_id, (m.content_id, m.caption))).arrange_by_key();
    pairs
        .filter(|pair| pair.mined)
        .map(|pair| (pair.query_id, pair.target_id))
        .join_core(by_id.clone(), |_, target_id, query| Some((target_id.clone(), query.clone())))
        .join_core(by_id, move |_, query, target| {
            let request = request(&model, query, target);
            Some((request.request_id.clone(), request))
        })
        .antijoin(answered.distinct())
        .map(|(_, request)| request)
        .consolidate()
}

/// The question to `model` about two contents with these captions.
pub fn request(
    model: &ModelId,
    query: &(ContentId, Option<Arc<str>>),
    target: &(ContentId, Option<Arc<str>>),
) -> Request {
    let asked = |(content, caption): &(ContentId, Option<Arc<str>>)| {
        let text = caption.as_deref().filter(|_| model.reads_captions);
        (*content, caption_text(text).map(Arc::<str>::from))
    };
    let (query, target) = (asked(query), asked(target));
    let request_id =
        model.request_id((query.0, query.1.as_deref()), (target.0, target.1.as_deref()));
    Request { request_id, query, target }
}
