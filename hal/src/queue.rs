//! Running compiled entries.

use std::sync::Arc;

use anynpu_ir::{Symbol, SymbolValues};

use crate::{Buffer, EntryInfo, HalError, Module, Point, Port, Support};

/// Tokens of a run that follow one another and see the same states: those of one text of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// Its tokens in this run, at least one.
    pub tokens: u32,
    /// Rows that its states hold before this run.
    pub cached: u32,
}

/// One run of one entry. Everything is borrowed: a driver that runs it later clones the `Arc`s.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    /// The module.
    pub module: &'a Arc<dyn Module>,
    /// Which of its entries.
    pub entry: usize,
    /// Operands, as [`crate::EntryInfo::inputs`] lists them.
    pub inputs: &'a [Arc<dyn Buffer>],
    /// Results, as [`crate::EntryInfo::outputs`] lists them.
    pub outputs: &'a [Arc<dyn Buffer>],
    /// Homes of the states, as [`crate::EntryInfo::states`] lists them; with `sequences`, so many for
    /// each of them, sequence by sequence.
    pub states: &'a [Arc<dyn Buffer>],
    /// What the run's tokens belong to. Empty: all are of one sequence, whose cached length is the
    /// symbol's. Else the tokens are those of the sequences one after the other; of `symbols`, TOKENS
    /// is their sum and CACHED the largest of theirs. Appending to states and attending over them are
    /// done sequence by sequence; all else takes the tokens as they come. Only for an entry that
    /// [takes it](Module::sequences).
    pub sequences: &'a [Sequence],
    /// Sizes of this run. State rows from the cached length on are written; the caller keeps
    /// them valid or not.
    pub symbols: SymbolValues,
    /// Points to be reached before it starts.
    pub wait: &'a [Point],
    /// Point signalled when it is done, or failed.
    pub signal: &'a Point,
}

impl Submission<'_> {
    /// The entry it names.
    pub fn entry_info(&self) -> Result<&EntryInfo, HalError> {
        let entries = self.module.entries();
        entries.get(self.entry).ok_or_else(|| HalError::InvalidUse {
            call: "submit",
            what: "entry".into(),
            found: self.entry.to_string(),
            expected: format!("one of {}", entries.len()),
        })
    }

    /// Checks that what is bound fits `info` under the submission's symbols: counts, and every
    /// buffer at least as large as its value; and sequences only where the entry takes them, which
    /// make up the run. Allocates nothing when all fits.
    pub fn check(&self, info: &EntryInfo) -> Result<(), HalError> {
        check_ports("inputs", &info.inputs, self.inputs, &self.symbols)?;
        check_ports("outputs", &info.outputs, self.outputs, &self.symbols)?;
        let times = self.sequences.len().max(1);
        let states = info.states.len().saturating_mul(times);
        if states != self.states.len() {
            return Err(count_error("states", self.states.len(), states));
        }
        match self.sequences {
            [] => Ok(()),
            sequences => self.check_sequences(sequences),
        }
    }

    fn check_sequences(&self, sequences: &[Sequence]) -> Result<(), HalError> {
        let wrong = |what: String, found: String, expected: String| HalError::InvalidUse {
            call: "submit",
            what,
            found,
            expected,
        };
        if let Support::No(reason) = self.module.sequences(self.entry) {
            return Err(wrong(
                "sequences of a run".into(),
                sequences.len().to_string(),
                format!("all tokens of one: {reason}"),
            ));
        }
        let symbol = |s: Symbol| self.symbols.get(s);
        let capacity = symbol(Symbol::CAPACITY);
        let (mut tokens, mut cached) = (0u32, 0);
        for (i, s) in sequences.iter().enumerate() {
            let end = s.cached.checked_add(s.tokens);
            if s.tokens == 0 || end.is_none_or(|end| end > capacity) {
                return Err(wrong(
                    format!("sequence {i} of a run"),
                    format!("{} tokens after {} rows", s.tokens, s.cached),
                    format!("one token or more within {capacity} rows"),
                ));
            }
            let sum = tokens.checked_add(s.tokens).ok_or_else(|| {
                let found = format!("{tokens} and {} more", s.tokens);
                wrong(
                    "tokens of sequences".into(),
                    found,
                    "a number of 32 bits".into(),
                )
            })?;
            (tokens, cached) = (sum, s.cached.max(cached));
        }
        for (what, found, of) in [
            ("tokens of all sequences", tokens, Symbol::TOKENS),
            ("most rows cached of a sequence", cached, Symbol::CACHED),
        ] {
            let expected = symbol(of);
            if found != expected {
                let expected = format!("{expected}, the symbol {}", of.name());
                return Err(wrong(what.into(), found.to_string(), expected));
            }
        }
        Ok(())
    }
}

fn count_error(what: &str, found: usize, expected: usize) -> HalError {
    HalError::InvalidUse {
        call: "submit",
        what: format!("number of {what}"),
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

fn check_ports(
    what: &str,
    ports: &[Port],
    buffers: &[Arc<dyn Buffer>],
    symbols: &SymbolValues,
) -> Result<(), HalError> {
    if ports.len() != buffers.len() {
        return Err(count_error(what, buffers.len(), ports.len()));
    }
    for (port, buffer) in ports.iter().zip(buffers) {
        let found = buffer.desc().bytes;
        match port.ty.bytes(symbols) {
            Some(needed) if needed <= found && needed <= port.max_bytes => {}
            needed => {
                return Err(HalError::InvalidUse {
                    call: "submit",
                    what: format!("buffer '{}' for a value of {}", buffer.desc().name, port.ty),
                    found: format!("{found} bytes"),
                    expected: format!(
                        "{} bytes, at most {}",
                        needed.map_or_else(|| "too many".to_owned(), |n| n.to_string()),
                        port.max_bytes
                    ),
                });
            }
        }
    }
    Ok(())
}

/// What a queue has executed since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Submissions that succeeded.
    pub submissions: u64,
    /// Nodes they executed.
    pub nodes: u64,
    /// Time spent in them, in nanoseconds.
    pub busy_ns: u64,
}

/// A device's in-order queue.
///
/// Order across queues comes only from `wait` points. A submission may be complete when `submit`
/// returns, or go on behind the caller's back; only its `signal` tells.
pub trait Queue: Send + Sync {
    /// Starts a run. An error here means nothing was started and `signal` is untouched; a failure
    /// later fails the timeline of `signal`.
    fn submit(&self, submission: &Submission<'_>) -> Result<(), HalError>;

    /// As [`Queue::submit`], of a run that the next submission waits for: where the queue can, it returns before the run
    /// is complete, and the next one begins behind it without the host between them. Whether it can,
    /// [`crate::Features::asynchronous`] tells.
    ///
    /// # Errors
    /// As [`Queue::submit`].
    fn submit_ahead(&self, submission: &Submission<'_>) -> Result<(), HalError> {
        self.submit(submission)
    }

    /// What has been executed, counted by the device itself.
    fn counters(&self) -> Counters;
}

#[cfg(test)]
mod tests {
    use anynpu_ir::{AttentionKv, DType, Dim, Graph, Op, TensorType};

    use super::*;
    use crate::driver::noop::NoopDriver;
    use crate::{
        Bounds, BufferDesc, CompileOptions, Device, Driver, Entry, Extent, OpenOptions, Reason,
        ReasonCode, Timeline, WeightSource, WeightView,
    };

    #[derive(Debug)]
    struct NoWeights;

    impl WeightSource for NoWeights {
        fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
            Err(HalError::Weight {
                name: name.into(),
                why: "there are none".into(),
            })
        }
    }

    /// A module that refuses several sequences.
    #[derive(Debug)]
    struct One(Arc<dyn Module>);

    impl Module for One {
        fn entries(&self) -> &[EntryInfo] {
            self.0.entries()
        }

        fn resident_bytes(&self) -> u64 {
            0
        }

        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }

    const CAPACITY: u32 = 8;

    struct Bench {
        device: Arc<dyn Device>,
        module: Arc<dyn Module>,
    }

    impl Bench {
        /// Attention over two states to which keys and values are appended.
        fn new() -> Self {
            let found = NoopDriver.enumerate().unwrap();
            let device = NoopDriver.open(&found[0], &OpenOptions::default()).unwrap();
            let mut graph = Graph::new("g");
            let head = [Dim::Fixed(1), Dim::Fixed(4)];
            let ty = |first| TensorType::new(DType::F32, [first, head[0], head[1]]);
            let x = graph.add_input("x", ty(Dim::TOKENS)).unwrap();
            let [k, v] =
                ["k", "v"].map(|name| graph.add_state(name, ty(Dim::CAPACITY), 0).unwrap());
            for state in [k, v] {
                let at = Dim::CACHED;
                let op = Op::KvAppend { state, at };
                graph
                    .add_node(format!("append.{}", state.0), op, &[x])
                    .unwrap();
            }
            let attention = Op::Attention {
                kv: AttentionKv::State { k, v },
                causal: false,
                mask: false,
                scale: 1.0,
                soft_cap: None,
                window: None,
            };
            let y = graph.add("y", attention, &[x]).unwrap();
            graph.set_output(y).unwrap();
            let limit = |n| Extent::AtMost(n);
            let entry = Entry {
                name: "e".into(),
                nodes: 0..graph.nodes().len() as u32,
                graph: Arc::new(graph),
                bounds: Bounds::new()
                    .with(Symbol::TOKENS, limit(8))
                    .with(Symbol::CACHED, limit(8))
                    .with(Symbol::CAPACITY, limit(CAPACITY)),
            };
            let options = CompileOptions::new(DType::F32);
            let module = device
                .compile(&[entry], &options, Arc::new(NoWeights), &mut |_, _| true)
                .unwrap();
            Bench { device, module }
        }

        fn run(
            &self,
            module: &Arc<dyn Module>,
            sequences: &[Sequence],
            homes: usize,
            [tokens, cached]: [u32; 2],
        ) -> Result<(), HalError> {
            let buffer = |bytes| self.device.allocate(&BufferDesc::host("b", bytes)).unwrap();
            let states: Vec<_> = (0..homes).map(|_| buffer(8 * 4 * 4)).collect();
            let signal = Timeline::new("t").point(1);
            let submission = Submission {
                module,
                entry: 0,
                inputs: &[buffer(8 * 4 * 4)],
                outputs: &[buffer(8 * 4 * 4)],
                states: &states,
                sequences,
                symbols: SymbolValues::step(tokens, cached, 1, CAPACITY),
                wait: &[],
                signal: &signal,
            };
            submission.check(submission.entry_info()?)
        }
    }

    fn sequence(tokens: u32, cached: u32) -> Sequence {
        Sequence { tokens, cached }
    }

    #[test]
    fn sequences_are_counted_summed_and_bounded() {
        let bench = Bench::new();
        let two = [sequence(1, 7), sequence(3, 0)];
        let run = |s: &[Sequence], homes, sizes| bench.run(&bench.module, s, homes, sizes);
        run(&two, 4, [4, 7]).unwrap();
        run(&[], 2, [4, 3]).unwrap();
        let huge = [sequence(u32::MAX, 1), sequence(1, 0)];
        for (sequences, homes, sizes, says) in [
            (&two[..], 2, [4, 7], "number of states is 2"),
            (&[], 4, [4, 3], "number of states is 4"),
            (&two, 4, [5, 7], "tokens of all sequences is 4"),
            (&two, 4, [4, 6], "most rows cached of a sequence is 7"),
            (
                &[sequence(2, 7), sequence(1, 0)],
                4,
                [3, 7],
                "sequence 0 of a run is 2 tokens after 7",
            ),
            (
                &[sequence(1, 0), sequence(0, 0)],
                4,
                [1, 0],
                "sequence 1 of a run is 0 tokens",
            ),
            (
                &huge,
                4,
                [1, 1],
                "sequence 0 of a run is 4294967295 tokens after 1",
            ),
        ] {
            let e = run(sequences, homes, sizes).unwrap_err().to_string();
            assert!(e.contains(says), "{e}; expected {says}");
        }
    }

    #[test]
    fn sequences_are_refused_with_the_modules_reason_where_it_takes_one() {
        let bench = Bench::new();
        let one: Arc<dyn Module> = Arc::new(One(bench.module.clone()));
        let why = one.sequences(0);
        assert!(matches!(
            &why,
            Support::No(Reason {
                code: ReasonCode::State,
                ..
            })
        ));
        bench.run(&one, &[], 2, [4, 3]).unwrap();
        let e = bench
            .run(&one, &[sequence(4, 3)], 2, [4, 3])
            .unwrap_err()
            .to_string();
        assert!(e.contains("its runs take tokens of one sequence"), "{e}");
    }
}
