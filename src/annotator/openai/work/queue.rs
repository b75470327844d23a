//! What is asked next, what has to wait for its time, and what is too dear for what is left.
//!
//! Captions go before all pairs: without its captions a pair is not asked about. Then answers are judged
//! that wait for that; where there are many of them, nothing else is asked.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Instant,
};

use operators::flow::{CAPTION, DESCRIBE, TASK};

use super::super::{
    money::Nanos,
    worth::{Both, Order, Worth},
};

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::annotator::openai) enum Asks {
    /// What one image shows.
    Caption,
    /// What two images share and where they differ.
    Description,
    /// What leads from one to the other.
    Instructions,
    /// Whether it does.
    Judgement,
}

impl Asks {
    /// As the column `task` has it.
    pub fn task(self) -> &'static str {
        match self {
            Asks::Caption => CAPTION,
            Asks::Description => DESCRIBE,
            Asks::Instructions | Asks::Judgement => TASK,
        }
    }

    /// Whether it is what pairs need, which is asked in an order of worth.
    fn is_ordered(self) -> bool {
        matches!(self, Asks::Description | Asks::Instructions)
    }

    /// The inverse of [`Asks::task`].
    pub fn of(task: &str) -> Asks {
        match task {
            CAPTION => Asks::Caption,
            DESCRIBE => Asks::Description,
            _ => Asks::Instructions,
        }
    }
}

/// What is asked, in the order in which it is while money does for all: both directions of a pair, and
/// pairs with an image in common, one after the other, which is what the caches of servers like.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::annotator::openai) struct Job {
    /// The contents, the smaller one first; for a caption both are its own.
    pub pair: Both,
    /// The query is the second of them.
    pub turned: bool,
    /// The request.
    pub id: String,
    /// What is asked for.
    pub asks: Asks,
}

impl Job {
    fn describes(&self) -> bool {
        self.asks == Asks::Description
    }
}

/// Requests that no call is in flight for.
#[derive(Debug, Default)]
pub(in crate::annotator::openai) struct Queue {
    /// Captions, in the order of contents, whatever money does for.
    captions: BTreeSet<Job>,
    /// Answers that are judged.
    judged: BTreeSet<Job>,
    /// What pairs need.
    ready: BTreeSet<Job>,
    /// The same by what they are worth, where money is scarce.
    order: Option<Order<Job>>,
    /// Between two tries of one round: seconds.
    later: BTreeSet<(Instant, Job)>,
    /// Between two rounds: minutes to hours.
    put_off: BTreeSet<(Instant, Job)>,
    /// Those that cost more than is left, with what they may cost.
    dear: BTreeSet<(Nanos, Job)>,
}

impl Queue {
    /// May be asked now.
    pub fn push(&mut self, job: Job) {
        if let Some(first) = self.first(job.asks) {
            first.insert(job);
            return;
        }
        if let Some(order) = &mut self.order {
            order.insert(&job.pair, job.describes(), job.clone());
        }
        self.ready.insert(job);
    }

    /// Where those are that go before what pairs need.
    fn first(&mut self, asks: Asks) -> Option<&mut BTreeSet<Job>> {
        match asks {
            Asks::Caption => Some(&mut self.captions),
            Asks::Judgement => Some(&mut self.judged),
            Asks::Description | Asks::Instructions => None,
        }
    }

    /// Is tried again at that time.
    pub fn again(&mut self, at: Instant, job: Job) {
        self.later.insert((at, job));
    }

    /// Is put off until then.
    pub fn put_off(&mut self, until: Instant, job: Job) {
        self.put_off.insert((until, job));
    }

    /// May cost so much, which is more than is left; what is cheaper goes first.
    pub fn too_dear(&mut self, cost: Nanos, job: Job) {
        self.dear.insert((cost, job));
    }

    /// Is not asked any more.
    pub fn remove(&mut self, job: &Job) {
        if self.first(job.asks).is_some_and(|first| first.remove(job)) {
            return;
        }
        if self.ready.remove(job) {
            if let Some(order) = &mut self.order {
                order.remove(&job.pair, job.describes(), job.clone());
            }
            return;
        }
        self.later.retain(|(_, other)| other != job);
        self.put_off.retain(|(_, other)| other != job);
        self.dear.retain(|(_, other)| other != job);
    }

    /// What is due may be asked.
    pub fn wake(&mut self, now: Instant) {
        while let Some(job) = due(&mut self.later, now).or_else(|| due(&mut self.put_off, now)) {
            self.push(job);
        }
    }

    /// So much is left: what it may cover is tried.
    pub fn afford(&mut self, left: Nanos) {
        while self.dear.first().is_some_and(|(cost, _)| *cost <= left)
            && let Some((_, job)) = self.dear.pop_first()
        {
            self.push(job);
        }
    }

    /// When something becomes due.
    pub fn next(&self) -> Option<Instant> {
        [&self.later, &self.put_off]
            .into_iter()
            .filter_map(|waits| waits.first())
            .map(|w| w.0)
            .min()
    }

    /// The next to be asked; without `more` only what is begun is.
    pub fn pop(&mut self, more: bool) -> Option<Job> {
        if let Some(first) = self.captions.pop_first().or_else(|| self.judged.pop_first()) {
            return Some(first);
        }
        if !more {
            return None;
        }
        let Some(order) = &mut self.order else { return self.ready.pop_first() };
        let job = order.pop()?;
        self.ready.remove(&job);
        Some(job)
    }

    /// It was asked: its source has had a turn.
    pub fn count(&mut self, job: &Job) {
        if let Some(order) = self.order.as_mut().filter(|_| job.asks.is_ordered()) {
            order.count(&job.pair);
        }
    }

    /// What may be asked now: captions, or what pairs need, of which there are two kinds.
    pub fn ready(&self, asks: Asks) -> impl Iterator<Item = &Job> {
        match asks {
            Asks::Caption => self.captions.iter(),
            Asks::Judgement => self.judged.iter(),
            Asks::Description | Asks::Instructions => self.ready.iter(),
        }
    }

    /// What is put off, the next first.
    pub fn waits(&self) -> impl Iterator<Item = &(Instant, Job)> {
        self.put_off.iter()
    }

    /// Nothing comes of time: all that waits is too dear.
    pub fn is_too_dear(&self) -> bool {
        let first = self.captions.is_empty() && self.judged.is_empty();
        let due = first && self.ready.is_empty() && self.later.is_empty();
        !self.dear.is_empty() && due
    }

    /// The pairs that may be asked now.
    pub fn pairs(&self) -> HashSet<Both> {
        let dear = self.dear.iter().map(|(_, job)| job).filter(|job| job.asks.is_ordered());
        self.ready.iter().chain(dear).map(|job| job.pair).collect()
    }

    /// From now on by what pairs are worth.
    pub fn order_by(&mut self, worth: HashMap<Both, Worth>) {
        let jobs = self.ready.iter().map(|job| (job.pair, job.describes(), job.clone()));
        self.order.get_or_insert_default().learn(worth, jobs);
    }

    /// From now on in the order of contents.
    pub fn order_by_contents(&mut self) {
        self.order = None;
    }
}

fn due(waits: &mut BTreeSet<(Instant, Job)>, now: Instant) -> Option<Job> {
    waits.first().filter(|(at, _)| *at <= now)?;
    waits.pop_first().map(|(_, job)| job)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use schemas::ContentId;

    use super::*;

    fn job(n: u8) -> Job {
        let pair = [ContentId([n; 32]), ContentId([n; 32])];
        Job { pair, turned: false, id: n.to_string(), asks: Asks::Description }
    }

    fn caption(n: u8) -> Job {
        Job { asks: Asks::Caption, ..job(n) }
    }

    fn all(queue: &mut Queue) -> Vec<Job> {
        std::iter::from_fn(|| queue.pop(true)).collect()
    }

    #[test]
    fn what_is_due_is_asked_and_what_has_gone_is_not() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut queue = Queue::default();
        queue.push(job(3));
        queue.again(at(2), job(1));
        queue.again(at(1), job(5));
        queue.put_off(at(1), job(2));
        queue.put_off(at(9), job(4));
        queue.put_off(at(8), job(6));
        assert_eq!(queue.next(), Some(at(1)));
        queue.wake(at(1));
        assert_eq!(queue.next(), Some(at(2)));
        assert_eq!(queue.ready(Asks::Description).count(), 3);
        for gone in [1, 3, 6] {
            queue.remove(&job(gone));
        }
        assert_eq!(queue.waits().collect::<Vec<_>>(), [&(at(9), job(4))]);
        queue.wake(at(8));
        assert_eq!(all(&mut queue), [job(2), job(5)]);
        assert_eq!(queue.next(), Some(at(9)));
    }

    #[test]
    fn what_is_too_dear_waits_for_money_and_holds_up_nothing() {
        let mut queue = Queue::default();
        (1..5).for_each(|n| queue.push(job(n)));
        for (cost, n) in [(50, 1), (70, 2), (60, 3)] {
            assert_eq!(queue.pop(true), Some(job(n)));
            queue.too_dear(cost, job(n));
        }
        assert!(!queue.is_too_dear(), "there is another one");
        assert_eq!(queue.pop(true), Some(job(4)));
        assert!(queue.is_too_dear());
        queue.afford(49);
        assert_eq!(queue.pop(true), None);
        queue.remove(&job(1));
        queue.afford(69);
        assert_eq!(all(&mut queue), [job(3)]);
    }

    #[test]
    fn captions_go_before_all_pairs_whatever_these_are_worth() {
        let begin = Instant::now();
        let mut queue = Queue::default();
        for of in [job(1), caption(9), job(2), caption(7), caption(8), job(3)] {
            queue.push(of);
        }
        let worth = |channels| Worth { channels, ..Worth::default() };
        queue.order_by([(job(2).pair, worth(3))].into());
        assert_eq!(queue.pairs(), [1, 2, 3].map(|n| job(n).pair).into());
        let ready = [Asks::Caption, Asks::Description].map(|asks| queue.ready(asks).count());
        assert_eq!(ready, [3, 3]);
        assert_eq!(queue.pop(true), Some(caption(7)));
        queue.count(&caption(7));
        queue.again(begin, caption(7));
        queue.remove(&caption(9));
        queue.wake(begin);
        assert_eq!(queue.pop(true), Some(caption(7)), "tried again it is before them too");
        assert_eq!(queue.pop(true), Some(caption(8)));
        queue.too_dear(50, caption(8));
        queue.put_off(begin, caption(7));
        assert_eq!(queue.pop(true), Some(job(2)));
        assert!(!queue.is_too_dear() && queue.pairs().len() == 2, "too dear is the caption");
        queue.afford(60);
        queue.wake(begin);
        assert_eq!(all(&mut queue), [caption(7), caption(8), job(1), job(3)]);
        queue.too_dear(50, caption(8));
        assert!(queue.is_too_dear());
        queue.push(caption(5));
        assert!(!queue.is_too_dear(), "there is another one");
        queue.remove(&caption(8));
        queue.remove(&caption(5));
        assert_eq!(queue.pop(true), None);
    }

    #[test]
    fn by_worth_and_by_contents_it_is_the_same_work() {
        let mut queue = Queue::default();
        (1..6).for_each(|n| queue.push(job(n)));
        let worth = |channels| Worth { channels, ..Worth::default() };
        queue.order_by([(job(2).pair, worth(2)), (job(4).pair, worth(3))].into());
        assert_eq!(queue.pop(true), Some(job(4)));
        queue.push(job(6));
        queue.remove(&job(5));
        assert_eq!(queue.pop(true), Some(job(2)));
        queue.order_by_contents();
        assert_eq!(all(&mut queue), [job(1), job(3), job(6)]);
    }

    #[test]
    fn answers_are_judged_before_more_is_asked_for() {
        let judgement = |n: u8| Job { asks: Asks::Judgement, ..job(n) };
        let mut queue = Queue::default();
        [job(1), judgement(9), caption(5), judgement(8)].into_iter().for_each(|of| queue.push(of));
        assert_eq!(
            queue.pairs(),
            HashSet::from([job(1).pair]),
            "what is begun has no order of worth"
        );
        assert_eq!(queue.pop(true), Some(caption(5)));
        queue.remove(&judgement(9));
        assert_eq!((queue.pop(false), queue.pop(false)), (Some(judgement(8)), None));
        assert_eq!(queue.pop(true), Some(job(1)));
        queue.too_dear(5, judgement(8));
        assert!(queue.is_too_dear() && queue.pairs().is_empty());
        queue.push(judgement(7));
        assert!(!queue.is_too_dear());
    }
}
