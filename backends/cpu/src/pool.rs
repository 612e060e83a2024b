//! A fixed pool of threads for fork-join over the rows of one operation.
//!
//! A decode step of a language model forks and joins hundreds of times a second for work of some
//! ten microseconds each, so the pool is built for that: threads are made once, a job is one
//! pointer and one counter, nothing is allocated per job, and workers spin for a bounded time
//! between jobs before they park. A parked pool uses no processor time.
//!
//! ```text
//! state: | epoch 32 | … | OPEN 1 | WAITING 1 | active 30 |
//!
//!   caller                         worker
//!   ------                         ------
//!   write job, next = 0
//!   state = epoch+1 | OPEN  ────►  state + 1 (only while OPEN)   enters
//!   take tasks from `next`         take tasks from `next`
//!   clear OPEN                     state − 1                     leaves
//!   wait until active = 0  ◄────
//! ```
//!
//! The caller waits only for workers that entered. A worker that the operating system did not
//! schedule in time finds the job closed and costs nothing. One that it put aside in the middle of a task holds up the
//! job: where other programs use its processor too, that would come again with every few jobs. So a worker for which
//! a job waited long sits out short jobs for a while; of long ones it takes its part.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::cores::Cores;

/// How long a worker looks for the next job before it parks.
const WORKER_SPIN: Duration = Duration::from_micros(60);
/// How long the caller looks for the last worker to leave before it parks.
const CALLER_SPIN: Duration = Duration::from_micros(60);
/// How long a job waits for its workers before they are late, if that is also [`LATE_PARTS`] times what the caller worked
/// on it.
const LATE: Duration = Duration::from_millis(1);
const LATE_PARTS: u32 = 2;
/// How long a late worker takes no part in jobs that are done within [`SHORT`].
const SITS_OUT: Duration = Duration::from_millis(100);
const SHORT: Duration = Duration::from_millis(1);
/// Most threads a pool may have.
const MAX_THREADS: usize = 1024;

const EPOCH: u64 = 1 << 32;
const OPEN: u64 = 1 << 31;
const WAITING: u64 = 1 << 30;
const ACTIVE: u64 = WAITING - 1;

/// Why a pool could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The number of threads asked for is out of range.
    #[error("a pool of {asked} threads was asked for; choose 1 to {MAX_THREADS}")]
    ThreadCount {
        /// The number asked for.
        asked: usize,
    },
    /// The operating system refused a thread.
    #[error("thread {index} of the pool could not be started; choose fewer threads")]
    Spawn {
        /// Which thread, counting the caller as 0.
        index: usize,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
}

/// A fixed pool of `threads` threads, the calling one included.
///
/// [`Pool::run`] may be called from several threads; such calls take turns. A call from inside a
/// task runs its tasks on that thread.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the whole of a job.
    turn: Mutex<()>,
}

struct Shared {
    state: AtomicU64,
    next: AtomicUsize,
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    /// The epoch of the last job that had late workers.
    late: AtomicU64,
    shutdown: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    done: Mutex<()>,
    left: Condvar,
    worker_spin: Duration,
    caller_spin: Duration,
}

#[derive(Clone, Copy)]
struct Job {
    tasks: usize,
    run: *const (dyn Fn(usize, usize) + Sync),
}

// SAFETY: `job` is written only by the holder of `Pool::turn` while the state is closed and
// nobody is active, and read only by workers that entered afterwards; `state` orders the two.
// Everything else in `Shared` is `Sync` by itself. The pointer is to a `Sync` closure.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in `Shared` is bound to a thread.
unsafe impl Send for Shared {}

thread_local! {
    /// The index of this thread within the job it is running, if any.
    static INSIDE: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Pool {
    /// A pool of `threads` threads; the calling thread is one of them.
    ///
    /// # Errors
    /// [`PoolError`] if `threads` is 0 or above 1024, or a thread cannot be started.
    pub fn new(threads: usize) -> Result<Pool, PoolError> {
        Pool::on(threads, None)
    }

    /// As [`Pool::new`], with all threads but the caller's kept on those of `cores` that suit them. Where the system does
    /// not do so, they run where it likes.
    pub(crate) fn on(threads: usize, cores: Option<&Cores>) -> Result<Pool, PoolError> {
        if threads == 0 || threads > MAX_THREADS {
            return Err(PoolError::ThreadCount { asked: threads });
        }
        // Spinning only helps threads that have a processor of their own.
        let own_cpus = std::thread::available_parallelism().is_ok_and(|n| n.get() >= threads);
        let spin = |d: Duration| if own_cpus { d } else { Duration::ZERO };
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(Job {
                tasks: 0,
                run: &|_, _| (),
            }),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            late: AtomicU64::new(0),
            shutdown: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            done: Mutex::new(()),
            left: Condvar::new(),
            worker_spin: spin(WORKER_SPIN),
            caller_spin: spin(CALLER_SPIN),
        });
        let mut pool = Pool {
            shared,
            workers: Vec::with_capacity(threads - 1),
            turn: Mutex::new(()),
        };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let cores = cores.and_then(|cores| cores.set_for(index, threads));
            let work = move || {
                if let Some(Err(error)) = cores.map(|cores| cores.keep_thread()) {
                    tracing::warn!(%error, "a thread is not kept on its cores");
                }
                shared.work(index)
            };
            let handle = std::thread::Builder::new()
                .name(format!("anynpu-cpu-{index}"))
                .spawn(work)
                .map_err(|source| PoolError::Spawn { index, source })?;
            pool.workers.push(handle);
        }
        Ok(pool)
    }

    /// Number of threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)`, …, `task(tasks − 1)`, each once, in any order and on any thread, and
    /// returns when all are done.
    ///
    /// # Panics
    /// If a task panics, tasks not yet started are dropped and the panic goes on in the caller.
    pub fn run<F: Fn(usize) + Sync>(&self, tasks: usize, task: F) {
        self.run_indexed(tasks, |_, i| task(i));
    }

    /// As [`Pool::run`], with the running thread's index in `0..threads()` as the closure's first
    /// argument: no two tasks run with the same index at the same time.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn run_indexed<F: Fn(usize, usize) + Sync>(&self, tasks: usize, task: F) {
        if let Some(thread) = INSIDE.get() {
            // Nested: the thread keeps its index, so what it owns by index stays its own.
            (0..tasks).for_each(|i| task(thread, i));
            return;
        }
        if tasks == 0 {
            return;
        }
        let _turn = self.turn.lock();
        if tasks == 1 || self.workers.is_empty() {
            let _inside = Inside::enter(0);
            (0..tasks).for_each(|i| task(0, i));
            return;
        }
        let panic = self.shared.fork_join(tasks, &task);
        drop(_turn);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(1, Ordering::SeqCst);
        drop(self.shared.sleep.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches its tasks' panics, so it ends without one.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads())
            .finish()
    }
}

/// Marks the thread as being inside a job for as long as it lives.
struct Inside;

impl Inside {
    fn enter(thread: usize) -> Inside {
        INSIDE.set(Some(thread));
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(None);
    }
}

impl Shared {
    /// One job, on the calling thread (index 0) and the workers. The caller holds the turn.
    fn fork_join(
        &self,
        tasks: usize,
        run: &(dyn Fn(usize, usize) + Sync),
    ) -> Option<Box<dyn Any + Send>> {
        let job = Job {
            tasks,
            // SAFETY: only the lifetime changes. This function returns after every worker that
            // could read the pointer has left, so it is not used after `run` ends.
            run: unsafe {
                std::mem::transmute::<
                    *const (dyn Fn(usize, usize) + Sync + '_),
                    *const (dyn Fn(usize, usize) + Sync + 'static),
                >(run)
            },
        };
        // SAFETY: the state is closed with nobody active (the previous `fork_join` waited for
        // that), and this thread holds the turn, so no one else reads or writes the cell.
        unsafe { *self.job.get() = job };
        self.next.store(0, Ordering::Relaxed);
        let epoch = (self.state.load(Ordering::Relaxed) & !(EPOCH - 1)).wrapping_add(EPOCH);
        self.state.store(epoch | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.sleep.lock());
            self.wake.notify_all();
        }
        let began = Instant::now();
        self.take_tasks(0, job);
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        self.wait_until_left(epoch, began);
        self.panic.lock().take()
    }

    /// Runs tasks until none is left.
    fn take_tasks(&self, thread: usize, job: Job) {
        let _inside = Inside::enter(thread);
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= job.tasks {
                return;
            }
            // SAFETY: the caller of `fork_join` keeps the closure alive until every thread that
            // entered the job has left it, and this thread has not left yet.
            let run = unsafe { &*job.run };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| run(thread, task))) {
                self.next.store(job.tasks, Ordering::Relaxed);
                self.panic.lock().get_or_insert(payload);
            }
        }
    }

    /// Waits for the workers of a job that began when `epoch` did.
    fn wait_until_left(&self, epoch: u64, began: Instant) {
        let start = Instant::now();
        loop {
            for _ in 0..32 {
                if self.state.load(Ordering::Acquire) & ACTIVE == 0 {
                    return;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() >= self.caller_spin {
                break;
            }
        }
        let late = LATE.max((start - began) * LATE_PARTS);
        let mut done = self.done.lock();
        self.state.fetch_or(WAITING, Ordering::AcqRel);
        while self.state.load(Ordering::Acquire) & ACTIVE != 0 {
            if self.left.wait_until(&mut done, start + late).timed_out() {
                self.late.store(epoch / EPOCH, Ordering::Relaxed);
                break;
            }
        }
        while self.state.load(Ordering::Acquire) & ACTIVE != 0 {
            self.left.wait(&mut done);
        }
        // The next job's store clears WAITING.
    }

    /// A worker's life.
    fn work(&self, thread: usize) {
        let mut seen = 0;
        while let Some(state) = self.wait_for_job(seen) {
            let entered =
                self.state
                    .compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
            if entered.is_err() {
                continue;
            }
            seen = state / EPOCH;
            // SAFETY: this thread entered while the job was open, so the caller wrote the cell
            // before (ordered by the exchange above) and does not write it again until this
            // thread has left.
            let job = unsafe { *self.job.get() };
            self.take_tasks(thread, job);
            let before = self.state.fetch_sub(1, Ordering::AcqRel);
            if before & WAITING != 0 && before & ACTIVE == 1 {
                drop(self.done.lock());
                self.left.notify_all();
            }
            if self.late.load(Ordering::Relaxed) == seen {
                self.sit_out(seen);
            }
        }
    }

    /// Returns after a while, or when a job that followed `seen` is open that is not short.
    fn sit_out(&self, seen: u64) {
        let start = Instant::now();
        let mut open = seen;
        while start.elapsed() < SITS_OUT && self.shutdown.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(SHORT);
            let state = self.state.load(Ordering::Relaxed);
            let epoch = state / EPOCH;
            if state & OPEN != 0 && epoch != seen && epoch == open {
                return;
            }
            open = epoch;
        }
    }

    /// The state once it is open in an epoch other than `seen`; `None` on shutdown.
    fn wait_for_job(&self, seen: u64) -> Option<u64> {
        let fresh = |order| {
            let state = self.state.load(order);
            (state & OPEN != 0 && state / EPOCH != seen).then_some(state)
        };
        let start = Instant::now();
        loop {
            for _ in 0..32 {
                if let Some(state) = fresh(Ordering::Acquire) {
                    return Some(state);
                }
                std::hint::spin_loop();
            }
            if self.shutdown.load(Ordering::SeqCst) != 0 {
                return None;
            }
            if start.elapsed() >= self.worker_spin {
                break;
            }
        }
        let mut sleep = self.sleep.lock();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let found = loop {
            if self.shutdown.load(Ordering::SeqCst) != 0 {
                break None;
            }
            if let Some(state) = fresh(Ordering::SeqCst) {
                break Some(state);
            }
            self.wake.wait(&mut sleep);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_task_runs_exactly_once_whatever_the_counts() {
        for threads in [1, 2, 3, 5] {
            let pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 2, 3, 7, 64, 1000] {
                let hits: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                pool.run(tasks, |i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_jobs_writes_are_seen_by_the_caller_and_by_the_next_job() {
        let pool = Pool::new(4).unwrap();
        let rounds = if cfg!(miri) { 20 } else { 2000 };
        let cells: Vec<AtomicU32> = (0..16).map(|_| AtomicU32::new(0)).collect();
        for round in 0..rounds {
            pool.run(16, |i| {
                let next = cells[(i + 1) % 16].load(Ordering::Relaxed);
                assert!(next == round || next == round + 1);
                cells[i].store(round + 1, Ordering::Relaxed);
            });
            assert!(cells.iter().all(|c| c.load(Ordering::Relaxed) == round + 1));
        }
    }

    #[test]
    fn thread_indices_are_in_range_and_never_shared_at_one_time() {
        let pool = Pool::new(3).unwrap();
        let busy: Vec<AtomicU32> = (0..3).map(|_| AtomicU32::new(0)).collect();
        pool.run_indexed(if cfg!(miri) { 30 } else { 3000 }, |thread, _| {
            assert_eq!(busy[thread].fetch_add(1, Ordering::SeqCst), 0);
            std::hint::spin_loop();
            busy[thread].fetch_sub(1, Ordering::SeqCst);
        });
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_leaves_the_pool_usable() {
        for threads in [1, 3] {
            let pool = Pool::new(threads).unwrap();
            for _ in 0..20 {
                let caught = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(50, |i| assert_ne!(i, 33, "task 33 fails"));
                }));
                let payload = caught.unwrap_err();
                let text = payload.downcast_ref::<String>().unwrap();
                assert!(text.contains("task 33 fails"), "{text}");
                let sum = AtomicU32::new(0);
                pool.run(10, |i| {
                    sum.fetch_add(i as u32, Ordering::Relaxed);
                });
                assert_eq!(sum.into_inner(), 45);
            }
        }
    }

    #[test]
    fn a_run_inside_a_task_keeps_the_threads_index() {
        let pool = Pool::new(3).unwrap();
        let count = AtomicU32::new(0);
        pool.run_indexed(8, |outer, _| {
            pool.run_indexed(4, |inner, _| {
                assert_eq!(outer, inner);
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(count.into_inner(), 32);
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let pool = Pool::new(3).unwrap();
        let total = AtomicU32::new(0);
        let rounds = if cfg!(miri) { 5 } else { 300 };
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..rounds {
                        pool.run(5, |_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * rounds * 5);
    }

    #[test]
    fn workers_that_parked_are_woken() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            while pool.shared.sleepers.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            // Each task waits for the other, so both threads must take part.
            let meet = std::sync::Barrier::new(2);
            pool.run(2, |_| {
                meet.wait();
            });
        }
    }

    /// Nanoseconds that a thread of this process has run, by the kernel's count.
    #[cfg(target_os = "linux")]
    fn ran(thread: i32) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse().ok()
    }

    #[test]
    #[cfg(target_os = "linux")]
    #[cfg_attr(miri, ignore)]
    fn workers_without_jobs_use_no_processor_time() {
        let pool = Pool::new(2).unwrap();
        let (meet, worker) = (std::sync::Barrier::new(2), AtomicUsize::new(0));
        pool.run_indexed(2, |thread, _| {
            meet.wait();
            if thread == 1 {
                // SAFETY: asks the kernel for this thread's number.
                worker.store(unsafe { libc::gettid() } as usize, Ordering::Relaxed);
            }
        });
        let worker = worker.into_inner() as i32;
        if ran(worker).is_none() {
            println!("SKIPPED workers_without_jobs_use_no_processor_time: no /proc/…/schedstat");
            return;
        }
        // It may take a while to park where processors are busy, but then it stays.
        let quiet = (0..100).any(|_| {
            let before = ran(worker);
            std::thread::sleep(Duration::from_millis(100));
            ran(worker) == before
        });
        assert!(quiet, "worker {worker} has run {:?} ns", ran(worker));
    }

    #[test]
    fn a_worker_that_was_late_takes_part_in_the_next_job_that_is_not_short() {
        let pool = Pool::new(2).unwrap();
        // Each task waits for the other, so both threads must take part.
        let together = |late: Duration| {
            let meet = std::sync::Barrier::new(2);
            pool.run_indexed(2, |thread, _| {
                meet.wait();
                if thread == 1 {
                    std::thread::sleep(late);
                }
            });
        };
        let late = || pool.shared.late.load(Ordering::Relaxed);
        together(20 * LATE);
        let first = late();
        assert_ne!(first, 0);
        together(20 * LATE);
        assert!(late() > first);
        together(Duration::ZERO);
    }

    #[test]
    fn thread_counts_out_of_range_are_refused() {
        assert!(matches!(
            Pool::new(0),
            Err(PoolError::ThreadCount { asked: 0 })
        ));
        assert!(Pool::new(MAX_THREADS + 1).is_err());
    }
}
