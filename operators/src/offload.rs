//! The one bridge to slow work: a fixed number of threads beside the dataflow's own.
//!
//! An operator submits a job together with whatever it needs when the answer is there (at least a
//! capability for the epoch, which holds the epoch open until then); the answer wakes the operator's
//! worker. A job that panics panics the operator: an epoch may fail, but never hang.

use std::{
    any::Any,
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use schemas::limits;
use timely::scheduling::SyncActivator;

type Job = Box<dyn FnOnce() + Send>;

/// Threads for slow work, shared by all workers of the process. They end when it is dropped.
pub struct Pool {
    jobs: Sender<Job>,
}

impl Pool {
    /// A pool of so many threads, usually one per core; at least one.
    pub fn new(threads: usize) -> Arc<Pool> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            let work = move || {
                while let Some(job) = next_job(&queue) {
                    job();
                }
            };
            thread::Builder::new()
                .name(format!("offload-{index}"))
                .spawn(work)
                .expect("a process may start as many threads as it has cores");
        }
        Arc::new(Pool { jobs })
    }
}

fn next_job(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    // Nothing can panic while the lock is held, so a poisoned one is as good.
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

type Outcome<R> = Result<R, Box<dyn Any + Send>>;
type Work<R> = Box<dyn FnOnce() -> R + Send>;

/// One operator's side of a [`Pool`]: at most [`limits::OFFLOAD_JOBS`] of its jobs are with the pool
/// at once, the others wait here, so a pool's queue is bounded by its operators.
pub struct Offload<T, R> {
    pool: Arc<Pool>,
    wake: SyncActivator,
    waiting: VecDeque<(T, Work<R>)>,
    running: HashMap<u64, T>,
    submitted: u64,
    answer: Sender<(u64, Outcome<R>)>,
    answers: Receiver<(u64, Outcome<R>)>,
}

impl<T, R: Send + 'static> Offload<T, R> {
    /// `wake` activates the operator that will ask for answers.
    pub fn new(pool: Arc<Pool>, wake: SyncActivator) -> Self {
        let (answer, answers) = channel();
        let (waiting, running) = (VecDeque::new(), HashMap::new());
        Offload { pool, wake, waiting, running, submitted: 0, answer, answers }
    }

    /// Gives a job to the pool. `tag` comes back with its answer, in any order.
    pub fn submit(&mut self, tag: T, work: impl FnOnce() -> R + Send + 'static) {
        self.waiting.push_back((tag, Box::new(work)));
        self.start_waiting();
    }

    /// An answer that is there, if one is. Panics if its job did.
    pub fn next_answer(&mut self) -> Option<(T, R)> {
        let (job, outcome) = self.answers.try_recv().ok()?;
        let tag = self.running.remove(&job).expect("a job is answered once");
        self.start_waiting();
        match outcome {
            Ok(answer) => Some((tag, answer)),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                panic!("a job beside the dataflow panicked: {}", text.unwrap_or_default());
            }
        }
    }

    /// Whether nothing is waiting or running.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    fn start_waiting(&mut self) {
        while self.running.len() < limits::OFFLOAD_JOBS {
            let Some((tag, work)) = self.waiting.pop_front() else { return };
            let job = self.submitted;
            self.submitted += 1;
            self.running.insert(job, tag);
            let (answer, wake) = (self.answer.clone(), self.wake.clone());
            let run = move || {
                // The closure is consumed either way: nothing half-changed is seen again.
                let outcome = catch_unwind(AssertUnwindSafe(work));
                // Neither can matter if the operator is gone. The answer goes before the wake-up.
                let _ = answer.send((job, outcome));
                let _ = wake.activate();
            };
            self.pool.jobs.send(Box::new(run)).expect("the pool's threads wait while it exists");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use timely::dataflow::{
        StreamVec,
        channels::pact::Pipeline,
        operators::{Capture, Input, Probe, capture::Extract, generic::Operator},
    };

    use super::*;

    /// Computes `work` of each row beside the dataflow, in the row's own epoch.
    fn offloaded<'s>(
        rows: StreamVec<'s, u64, u64>,
        pool: Arc<Pool>,
        work: fn(u64) -> u64,
    ) -> StreamVec<'s, u64, u64> {
        let scope = rows.scope();
        rows.unary(Pipeline, "Offloaded", move |_, info| {
            let wake = scope.worker().sync_activator_for(info.address.to_vec());
            let mut offload = Offload::new(pool, wake);
            move |input, output| {
                input.for_each_stamp(|capability, data| {
                    if let Some(capability) = capability.retain_least(output.output_index()) {
                        for row in data.flat_map(|rows| rows.drain(..)) {
                            offload.submit(capability.clone(), move || work(row));
                        }
                    }
                });
                while let Some((capability, answer)) = offload.next_answer() {
                    output.session(&capability).give(answer);
                }
            }
        })
    }

    fn run(threads: usize, work: fn(u64) -> u64) -> Vec<(u64, Vec<u64>)> {
        let captured = timely::execute_directly(move |worker| {
            let pool = Pool::new(threads);
            let (mut input, probe, captured) = worker.dataflow::<u64, _, _>(|scope| {
                let (input, rows) = scope.new_input::<Vec<u64>>();
                let answers = offloaded(rows, pool, work);
                let (probe, answers) = answers.probe();
                (input, probe, answers.capture())
            });
            for epoch in 0..5 {
                (0..100).for_each(|row| input.send(1000 * epoch + row));
                input.advance_to(epoch + 1);
            }
            // Nothing wakes a parked worker but the answers.
            worker.step_or_park_while(None, || probe.less_than(&5));
            captured
        });
        captured.extract()
    }

    #[test]
    fn every_answer_comes_in_its_epoch() {
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        fn double(row: u64) -> u64 {
            let running = RUNNING.fetch_add(1, Ordering::SeqCst);
            assert!(running < limits::OFFLOAD_JOBS.min(3), "no more jobs than threads");
            RUNNING.fetch_sub(1, Ordering::SeqCst);
            2 * row
        }
        let answers = run(3, double);
        let mut all = Vec::new();
        for (epoch, rows) in answers {
            assert!(rows.iter().all(|row| row / 2000 == epoch));
            all.extend(rows);
        }
        all.sort_unstable();
        let expected = (0..5).flat_map(|epoch| (0..100).map(move |row| 2 * (1000 * epoch + row)));
        assert_eq!(all, expected.collect::<Vec<u64>>());
    }

    #[test]
    #[should_panic(expected = "a job beside the dataflow panicked: row 2042")]
    fn a_panic_in_a_job_is_a_panic_of_the_operator() {
        run(2, |row| if row == 2042 { panic!("row {row}") } else { row });
    }
}
