//! What is asked next, what has to wait for its time, and what is too dear for what is left.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Instant,
};

use super::super::{
    money::Nanos,
    worth::{Both, Order, Worth},
};

/// What is asked, in the order in which it is while money does for all: both directions of a pair, and
/// pairs with an image in common, one after the other, which is what the caches of servers like.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::annotator::openai) struct Job {
    /// The contents, the smaller one first.
    pub pair: Both,
    /// The query is the second of them.
    pub turned: bool,
    /// The request.
    pub id: String,
    /// A description is asked for.
    pub describes: bool,
}

/// Requests that no call is in flight for.
#[derive(Debug, Default)]
pub(in crate::annotator::openai) struct Queue {
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
        if let Some(order) = &mut self.order {
            order.insert(&job.pair, job.describes, job.clone());
        }
        self.ready.insert(job);
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
        if self.ready.remove(job) {
            if let Some(order) = &mut self.order {
                order.remove(&job.pair, job.describes, job.clone());
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

    /// The next to be asked.
    pub fn pop(&mut self) -> Option<Job> {
        let Some(order) = &mut self.order else { return self.ready.pop_first() };
        let job = order.pop()?;
        self.ready.remove(&job);
        Some(job)
    }

    /// It was asked: its source has had a turn.
    pub fn count(&mut self, job: &Job) {
        if let Some(order) = &mut self.order {
            order.count(&job.pair);
        }
    }

    /// What may be asked now.
    pub fn ready(&self) -> impl Iterator<Item = &Job> {
        self.ready.iter()
    }

    /// What is put off, the next first.
    pub fn waits(&self) -> impl Iterator<Item = &(Instant, Job)> {
        self.put_off.iter()
    }

    /// Nothing comes of time: all that waits is too dear.
    pub fn is_too_dear(&self) -> bool {
        !self.dear.is_empty() && self.ready.is_empty() && self.later.is_empty()
    }

    /// The pairs that may be asked now.
    pub fn pairs(&self) -> HashSet<Both> {
        self.ready.iter().chain(self.dear.iter().map(|(_, job)| job)).map(|job| job.pair).collect()
    }

    /// From now on by what pairs are worth.
    pub fn order_by(&mut self, worth: HashMap<Both, Worth>) {
        let jobs = self.ready.iter().map(|job| (job.pair, job.describes, job.clone()));
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
        Job { pair, turned: false, id: n.to_string(), describes: true }
    }

    fn all(queue: &mut Queue) -> Vec<Job> {
        std::iter::from_fn(|| queue.pop()).collect()
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
        assert_eq!(queue.ready().count(), 3);
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
            assert_eq!(queue.pop(), Some(job(n)));
            queue.too_dear(cost, job(n));
        }
        assert!(!queue.is_too_dear(), "there is another one");
        assert_eq!(queue.pop(), Some(job(4)));
        assert!(queue.is_too_dear());
        queue.afford(49);
        assert_eq!(queue.pop(), None);
        queue.remove(&job(1));
        queue.afford(69);
        assert_eq!(all(&mut queue), [job(3)]);
    }

    #[test]
    fn by_worth_and_by_contents_it_is_the_same_work() {
        let mut queue = Queue::default();
        (1..6).for_each(|n| queue.push(job(n)));
        let worth = |channels| Worth { channels, ..Worth::default() };
        queue.order_by([(job(2).pair, worth(2)), (job(4).pair, worth(3))].into());
        assert_eq!(queue.pop(), Some(job(4)));
        queue.push(job(6));
        queue.remove(&job(5));
        assert_eq!(queue.pop(), Some(job(2)));
        queue.order_by_contents();
        assert_eq!(all(&mut queue), [job(1), job(3), job(6)]);
    }
}
