//! How a box with state acts: on a whole epoch, once nothing more can come for it.

use std::collections::BTreeMap;

use schemas::Epoch;
use timely::{
    dataflow::{
        StreamVec,
        channels::pact::Exchange,
        operators::{Capability, OkErr, generic::Operator},
    },
    progress::frontier::MutableAntichain,
};

/// What came for epochs that are still open, with the right to answer in them.
pub struct Stash<D> {
    open: BTreeMap<Epoch, (Capability<Epoch>, Vec<D>)>,
}

impl<D> Default for Stash<D> {
    fn default() -> Self {
        Stash { open: BTreeMap::new() }
    }
}

impl<D> Stash<D> {
    /// The rows of this capability's epoch, to be added to.
    pub fn rows(&mut self, capability: Capability<Epoch>) -> &mut Vec<D> {
        let epoch = *capability.time();
        &mut self.open.entry(epoch).or_insert_with(|| (capability, Vec::new())).1
    }

    /// The rows of an epoch that is not before that of `held`.
    fn rows_of(&mut self, epoch: Epoch, held: &Capability<Epoch>) -> &mut Vec<D> {
        let entry = self.open.entry(epoch);
        &mut entry.or_insert_with(|| (held.delayed(&epoch), Vec::new())).1
    }

    /// The earliest epoch that something came for, if no more can come for it.
    pub fn next_closed(
        &mut self,
        frontier: &MutableAntichain<Epoch>,
    ) -> Option<(Capability<Epoch>, Vec<D>)> {
        let earliest = self.open.first_entry()?;
        if frontier.less_equal(earliest.key()) {
            return None;
        }
        Some(earliest.remove())
    }
}

/// Sends rows to workers by `route` and hands each worker its rows of each epoch once that is
/// closed, in the order of epochs; epochs without rows are left out. Rows of one sender keep their
/// order. What `logic` returns leaves in the same epoch.
pub fn each_epoch<'s, D, R>(
    rows: StreamVec<'s, Epoch, D>,
    name: &str,
    route: impl Fn(&D) -> u64 + 'static,
    mut logic: impl FnMut(Epoch, Vec<D>) -> Vec<R> + 'static,
) -> StreamVec<'s, Epoch, R>
where
    D: timely::ExchangeData,
    R: Clone + 'static,
{
    rows.unary_frontier(Exchange::new(route), name, |_, _| {
        let mut stash = Stash::default();
        move |(input, frontier), output| {
            input.for_each_stamp(|capability, data| {
                if let Some(capability) = capability.retain_least(output.output_index()) {
                    stash.rows(capability).extend(data.flat_map(|rows| rows.drain(..)));
                }
            });
            while let Some((capability, rows)) = stash.next_closed(frontier) {
                let out = logic(*capability.time(), rows);
                output.session(&capability).give_iterator(out.into_iter());
            }
        }
    })
}

/// As [`each_epoch`], for differential rows: they are gathered by their own epochs, which may be later
/// than those of the messages that bring them, and so are what `logic` makes of them.
pub fn each_closed<'s, D, R>(
    rows: StreamVec<'s, Epoch, (D, Epoch, isize)>,
    name: &str,
    route: impl Fn(&D) -> u64 + 'static,
    mut logic: impl FnMut(Vec<(D, isize)>) -> Vec<(R, isize)> + 'static,
) -> StreamVec<'s, Epoch, (R, Epoch, isize)>
where
    D: timely::ExchangeData,
    R: Clone + 'static,
{
    let route = Exchange::new(move |(row, _, _): &(D, Epoch, isize)| route(row));
    rows.unary_frontier(route, name, |_, _| {
        let mut stash = Stash::default();
        move |(input, frontier), output| {
            input.for_each_stamp(|capability, data| {
                let Some(held) = capability.retain_least(output.output_index()) else { return };
                for (row, epoch, diff) in data.flat_map(|rows| rows.drain(..)) {
                    stash.rows_of(epoch, &held).push((row, diff));
                }
            });
            while let Some((capability, rows)) = stash.next_closed(frontier) {
                let epoch = *capability.time();
                let out = logic(rows).into_iter().map(|(row, diff)| (row, epoch, diff));
                output.session(&capability).give_iterator(out);
            }
        }
    })
}

/// Splits a stream in two; timely's own `ok_err`, with its containers spelled out.
pub fn split<'s, D, A, B>(
    rows: StreamVec<'s, Epoch, D>,
    logic: impl FnMut(D) -> Result<A, B> + 'static,
) -> (StreamVec<'s, Epoch, A>, StreamVec<'s, Epoch, B>)
where
    D: Clone + 'static,
    A: Clone + 'static,
    B: Clone + 'static,
{
    rows.ok_err(logic)
}
