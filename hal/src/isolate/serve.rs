//! The helper's side: a driver that answers messages.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anynpu_ir::DType;
use memmap2::Mmap;
use parking_lot::Mutex;
use thiserror::Error;

use super::shared;
use super::wire::{
    self, Answer, Call, Reply, Request, WireCapabilities, WireCompile, WireExposed, WireInfo,
    WireSupport,
};
use crate::{
    Buffer, BufferDesc, Device, Driver, ExternalHandle, HalError, Module, OpenOptions, Sequence,
    Submission, Timeline, WeightSource, WeightView, heap_bytes, read_bytes, write_bytes,
};

/// Why a helper stopped serving before it was told to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Its messages can't be read or written.
    #[error("the program that started this helper can't be talked to: {0}")]
    Io(#[from] io::Error),
}

/// Standard output, for [`serve`] alone: what others write there from now on goes to standard error. Vendors' libraries
/// print.
///
/// # Errors
/// The system has no more descriptors.
#[cfg(unix)]
#[allow(unsafe_code)]
pub fn own_output() -> io::Result<File> {
    use std::os::fd::AsFd;

    let own = io::stdout().as_fd().try_clone_to_owned()?;
    // SAFETY: both descriptors are the program's own, and nothing is read from memory.
    match unsafe { libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(File::from(own)),
    }
}

/// Standard output.
///
/// # Errors
/// None here.
#[cfg(not(unix))]
pub fn own_output() -> io::Result<io::Stdout> {
    Ok(io::stdout())
}

/// Serves `driver` to the program at the other end of `input` and `output`, until it goes away. Nothing else may
/// write to `output`.
///
/// # Errors
/// Messages that can't be read or written.
pub fn serve(
    driver: &dyn Driver,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
) -> Result<(), ServeError> {
    let cancelled = Arc::new(AtomicU64::new(0));
    let (to, requests) = mpsc::channel();
    let told = cancelled.clone();
    std::thread::Builder::new().spawn(move || {
        let mut input = BufReader::new(input);
        loop {
            let request = wire::read::<Request>(&mut input);
            let last = !matches!(request, Ok(Some(_)));
            match request {
                // heard while the call it stops is at work
                Ok(Some(Request {
                    call: Call::Cancel(id),
                    ..
                })) => told.store(id, Ordering::Relaxed),
                other => {
                    if to.send(other).is_err() {
                        return;
                    }
                }
            }
            if last {
                return;
            }
        }
    })?;
    let output: Box<dyn Write + Send> = Box::new(output);
    Server {
        driver,
        output: Mutex::new(output),
        cancelled,
        device: None,
        modules: HashMap::new(),
        buffers: HashMap::new(),
        next_module: 1,
        timeline: Timeline::new(driver.name()),
        submitted: 0,
    }
    .run(&requests)
}

struct Server<'a> {
    driver: &'a dyn Driver,
    output: Mutex<Box<dyn Write + Send>>,
    /// The last call that was to be stopped.
    cancelled: Arc<AtomicU64>,
    device: Option<Arc<dyn Device>>,
    modules: HashMap<u64, Arc<dyn Module>>,
    buffers: HashMap<u64, Served>,
    next_module: u64,
    timeline: Timeline,
    submitted: u64,
}

/// A buffer of the device, and the memory that the program sees if that is another.
struct Served {
    device: Arc<dyn Buffer>,
    staging: Option<Arc<dyn Buffer>>,
}

impl fmt::Debug for Server<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("driver", &self.driver)
            .finish()
    }
}

impl Server<'_> {
    fn run(mut self, requests: &Receiver<io::Result<Option<Request>>>) -> Result<(), ServeError> {
        while let Ok(request) = requests.recv() {
            let Some(Request { id, call }) = request? else {
                break;
            };
            let result = self.answer(id, call).map_err(Into::into);
            self.write(&Reply { id, result })?;
        }
        Ok(())
    }

    fn write(&self, reply: &Reply) -> io::Result<()> {
        wire::write(&mut *self.output.lock(), reply)
    }

    fn answer(&mut self, id: u64, call: Call) -> Result<Answer, HalError> {
        match call {
            Call::Version => Ok(Answer::Version(wire::VERSION)),
            Call::Enumerate => Ok(match self.driver.enumerate() {
                Ok(found) => Answer::Devices(found.iter().map(WireExposed::of).collect()),
                Err(u) => Answer::Unavailable {
                    reason: u.reason,
                    remedy: u.remedy,
                },
            }),
            Call::Open {
                name,
                threads,
                options,
            } => self.open(&name, threads, options),
            Call::Support {
                graph,
                nodes,
                validate,
            } => {
                let graph = anynpu_ir::Graph::parse(&graph).map_err(|e| invalid("graph", e))?;
                let run = graph
                    .subgraph(nodes.0..nodes.1)
                    .map_err(|e| invalid("nodes", e))?;
                let device = self.device()?;
                let verdicts = match validate {
                    true => device.validate(&run)?,
                    false => device.support(&run),
                };
                Ok(Answer::Verdicts(
                    verdicts.iter().map(WireSupport::of).collect(),
                ))
            }
            Call::MemoryNeed(wire) => {
                let entries = wire.entries().map_err(|e| invalid("entries", e))?;
                let options = wire.options().map_err(|e| invalid("options", e))?;
                let weights = MappedWeights::of(&wire)?;
                let need = self.device()?.memory_need(&entries, &options, &weights)?;
                Ok(Answer::MemoryNeed(need.map(wire::memory_need)))
            }
            Call::Compile(wire) => self.compile(id, &wire),
            Call::DropModule(module) => {
                self.modules.remove(&module);
                Ok(Answer::Done)
            }
            Call::Allocate {
                buffer,
                name,
                bytes,
                align,
                path,
            } => {
                let mut desc = BufferDesc::host(name, bytes);
                desc.align = align;
                self.allocate(buffer, desc, &path)
            }
            Call::Free(buffer) => {
                self.buffers.remove(&buffer);
                Ok(Answer::Done)
            }
            Call::Submit {
                module,
                entry,
                inputs,
                outputs,
                states,
                sequences,
                symbols,
            } => {
                let bound = [&inputs[..], &outputs, &states];
                self.submit(module, entry, bound, &sequences, &symbols)
            }
            Call::Trim => Ok(Answer::Trimmed(self.device()?.trim())),
            Call::Heap => Ok(Answer::Heap(heap_bytes())),
            Call::Cancel(_) => Ok(Answer::Done),
        }
    }

    fn open(
        &mut self,
        name: &str,
        threads: Option<usize>,
        options: BTreeMap<String, String>,
    ) -> Result<Answer, HalError> {
        let found = self
            .driver
            .enumerate()
            .map_err(|u| invalid("driver", u.reason))?;
        let exposed = found.iter().find(|d| d.info.name == name);
        let exposed = exposed.ok_or_else(|| invalid("device", format!("there is no '{name}'")))?;
        let device = self
            .driver
            .open(exposed, &OpenOptions { threads, options })?;
        let answer = Answer::Opened {
            info: WireInfo::of(device.info()),
            capabilities: Box::new(WireCapabilities::of(device.capabilities())),
        };
        self.device = Some(device);
        Ok(answer)
    }

    fn device(&self) -> Result<&Arc<dyn Device>, HalError> {
        self.device
            .as_ref()
            .ok_or_else(|| invalid("device", "none is open"))
    }

    fn compile(&mut self, id: u64, wire: &WireCompile) -> Result<Answer, HalError> {
        let entries = wire.entries().map_err(|e| invalid("entries", e))?;
        let options = wire.options().map_err(|e| invalid("options", e))?;
        let weights = Arc::new(MappedWeights::of(wire)?);
        let mut told = |done, total| {
            let progress = Reply {
                id,
                result: Ok(Answer::Progress(done, total)),
            };
            // a program that went away is seen when its next message is read
            self.write(&progress).is_ok() && self.cancelled.load(Ordering::Relaxed) != id
        };
        let module = self
            .device()?
            .compile(&entries, &options, weights, &mut told)?;
        if module.entries().len() != entries.len() {
            return Err(invalid(
                "entries",
                "the device compiled another number of them",
            ));
        }
        let answer = Answer::Compiled {
            module: self.next_module,
            resident: module.resident_bytes(),
            sequences: (0..entries.len())
                .map(|entry| WireSupport::of(&module.sequences(entry)))
                .collect(),
        };
        self.modules.insert(self.next_module, module);
        self.next_module += 1;
        Ok(answer)
    }

    fn allocate(
        &mut self,
        number: u64,
        desc: BufferDesc,
        path: &std::path::Path,
    ) -> Result<Answer, HalError> {
        let memory: Arc<dyn Buffer> = Arc::new(shared::open(desc.clone(), path)?);
        let device = self.device()?;
        let served = match device.import(ExternalHandle::Shared(memory.clone()), &desc) {
            Ok(buffer) => Served {
                device: buffer,
                staging: None,
            },
            Err(_) => Served {
                device: device.allocate(&desc)?,
                staging: Some(memory),
            },
        };
        self.buffers.insert(number, served);
        Ok(Answer::Allocated)
    }

    /// Runs an entry to its end; what the device can't see itself is copied in before and out after.
    fn submit(
        &mut self,
        module: u64,
        entry: usize,
        [inputs, outputs, states]: [&[u64]; 3],
        sequences: &[(u32, u32)],
        symbols: &[u32],
    ) -> Result<Answer, HalError> {
        let module = self.modules.get(&module);
        let module = module
            .ok_or_else(|| invalid("module", "there is none of that number"))?
            .clone();
        let device = self.device()?.clone();
        // outputs too: what a run does not write of them goes back as it was
        for &number in inputs.iter().chain(outputs).chain(states) {
            self.served(number)?.copy(true)?;
        }
        let [i, o, s] = [inputs, outputs, states].map(|numbers| self.handles(numbers));
        let (i, o, s) = (i?, o?, s?);
        let sequence = |&(tokens, cached): &(u32, u32)| Sequence { tokens, cached };
        let sequences: Vec<_> = sequences.iter().map(sequence).collect();
        let signal = self.timeline.point(self.submitted + 1);
        device.queue().submit(&Submission {
            module: &module,
            entry,
            inputs: &i,
            outputs: &o,
            states: &s,
            sequences: &sequences,
            symbols: wire::symbol_values(symbols),
            wait: &[],
            signal: &signal,
        })?;
        // the program has the deadline: it ends this process when it is past
        let ended = signal.wait(Duration::MAX);
        match &ended {
            Ok(()) => self.submitted += 1,
            Err(_) => {
                self.timeline.reset();
                self.submitted = 0;
            }
        }
        ended?;
        for &number in outputs.iter().chain(states) {
            self.served(number)?.copy(false)?;
        }
        Ok(Answer::Ran(wire::counters(device.queue().counters())))
    }

    fn served(&self, number: u64) -> Result<&Served, HalError> {
        let served = self.buffers.get(&number);
        served.ok_or_else(|| invalid("buffer", format!("there is no number {number}")))
    }

    fn handles(&self, numbers: &[u64]) -> Result<Vec<Arc<dyn Buffer>>, HalError> {
        let handle = |&n: &u64| Ok(self.served(n)?.device.clone());
        numbers.iter().map(handle).collect()
    }
}

impl Served {
    /// Brings the device's memory and the program's together: inwards before a run, outwards after it.
    fn copy(&self, inwards: bool) -> Result<(), HalError> {
        let Some(staging) = &self.staging else {
            return Ok(());
        };
        let (from, to) = match inwards {
            true => (staging, &self.device),
            false => (&self.device, staging),
        };
        let mut bytes = vec![0; from.desc().bytes.min(to.desc().bytes)];
        // SAFETY: no submission is in flight: each is awaited before the next message is answered, and the
        // program does not touch the memory of a run it waits for.
        #[allow(unsafe_code)]
        unsafe {
            read_bytes(&**from, 0, &mut bytes)?;
            write_bytes(&**to, 0, &bytes)
        }
    }
}

fn invalid(what: &str, found: impl fmt::Display) -> HalError {
    HalError::InvalidUse {
        call: "helper",
        what: what.into(),
        found: found.to_string(),
        expected: "what the program and its helper agree on".into(),
    }
}

/// Weights in files that the program named.
#[derive(Debug)]
struct MappedWeights {
    files: Vec<Mmap>,
    /// By name: the type, the file, and where in it.
    weights: HashMap<String, (DType, usize, std::ops::Range<usize>)>,
}

impl MappedWeights {
    #[allow(unsafe_code)]
    fn of(wire: &WireCompile) -> Result<Self, HalError> {
        let failed = |name: &str, why: String| HalError::Weight {
            name: name.into(),
            why,
        };
        let mut files = Vec::new();
        for path in &wire.files {
            let file =
                File::open(path).map_err(|e| failed(&path.display().to_string(), e.to_string()))?;
            // SAFETY: the file is the program's own or the model's, which the program maps as well: whoever
            // truncates it while it is in use ends both, here only this helper.
            let map = unsafe { Mmap::map(&file) };
            files.push(map.map_err(|e| failed(&path.display().to_string(), e.to_string()))?);
        }
        let mut weights = HashMap::new();
        for w in &wire.weights {
            let dtype = wire::dtype(&w.dtype).map_err(|e| failed(&w.name, e))?;
            let start = usize::try_from(w.offset).ok();
            let end = w
                .offset
                .checked_add(w.length)
                .and_then(|e| usize::try_from(e).ok());
            let within = |end: &usize| files.get(w.file).is_some_and(|f| *end <= f.len());
            let (Some(start), Some(end)) = (start, end.filter(within)) else {
                let why = format!("{} bytes at {} are not in its file", w.length, w.offset);
                return Err(failed(&w.name, why));
            };
            weights.insert(w.name.clone(), (dtype, w.file, start..end));
        }
        Ok(MappedWeights { files, weights })
    }
}

impl WeightSource for MappedWeights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let found = self.weights.get(name);
        let (dtype, file, range) = found.ok_or_else(|| HalError::Weight {
            name: name.into(),
            why: "the program did not send it".into(),
        })?;
        Ok(WeightView {
            dtype: *dtype,
            bytes: self.files[*file][range.clone()].into(),
        })
    }
}
