//! An engine for Core ML's devices that computes packages by Apple's definitions of operations, on any computer.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anynpu_coreml::binding::{Array, Element, FunctionPlan};
use anynpu_coreml::exec::{ArrayMemory, Engine, Given, Loaded, Model, StateMemory, System, Taken};
use anynpu_coreml::package::PackageInMemory;
use anynpu_coreml::plan::{ComputePlan, Found, PlannedFunction, PlannedOperation, Processor};
use anynpu_coreml::{ComputeUnits, CoreMlError, Platform};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::checker::Checker;

/// Computes packages on the processor.
#[derive(Clone, Debug)]
pub struct Computed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: Mutex<Server>,
    /// The version of the system that it says it is.
    version: u32,
    /// Packages that were in memory.
    folder: tempfile::TempDir,
    /// Packages that were compiled, those among them that were in memory, and functions that were run.
    compiled: AtomicU64,
    in_memory: AtomicU64,
    ran: AtomicU64,
    /// Runs after which all fail; 0 for none.
    fails_after: AtomicU64,
    /// Whether a function takes the states that it made alone.
    own_states_alone: AtomicBool,
    /// States that were made, and copies of one from and to them.
    states: AtomicU64,
    state_copies: AtomicU64,
    /// Arrays in memory of its own.
    own_memory: AtomicU64,
}

#[derive(Debug)]
struct Server {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn ask(&mut self, request: &Value, data: &[&[u8]]) -> Result<Value, CoreMlError> {
        let failed = |e: std::io::Error| vendor(format!("the program that computes: {e}"));
        let mut send = || {
            self.to.write_all(format!("{request}\n").as_bytes())?;
            data.iter().try_for_each(|d| self.to.write_all(d))?;
            self.to.flush()
        };
        send().map_err(failed)?;
        let mut line = String::new();
        self.from.read_line(&mut line).map_err(failed)?;
        let answer: Value = serde_json::from_str(&line).map_err(|e| vendor(e.to_string()))?;
        match answer.get("error") {
            Some(error) => Err(vendor(error.to_string())),
            None => Ok(answer),
        }
    }
}

fn vendor(text: String) -> CoreMlError {
    CoreMlError::Vendor {
        call: "coremltools",
        code: 1,
        text,
    }
}

impl Computed {
    /// One on macOS of `version`, or `None` with the reason printed.
    pub fn find(test: &str, version: u32) -> Option<Computed> {
        let checker = Checker::find(test)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/coreml/serve.py");
        let mut child = Command::new(checker.python())
            .arg(script)
            .arg(checker.program())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let server = Server {
            child,
            to,
            from: BufReader::new(from),
        };
        Some(Computed {
            shared: Arc::new(Shared {
                server: Mutex::new(server),
                version,
                folder: tempfile::tempdir().unwrap(),
                compiled: AtomicU64::new(0),
                in_memory: AtomicU64::new(0),
                ran: AtomicU64::new(0),
                fails_after: AtomicU64::new(0),
                own_states_alone: AtomicBool::new(false),
                states: AtomicU64::new(0),
                state_copies: AtomicU64::new(0),
                own_memory: AtomicU64::new(0),
            }),
        })
    }

    /// How many packages were compiled.
    pub fn compiled(&self) -> u64 {
        self.shared.compiled.load(Ordering::Relaxed)
    }

    /// How many of them were in memory.
    pub fn in_memory(&self) -> u64 {
        self.shared.in_memory.load(Ordering::Relaxed)
    }

    /// How many functions were run.
    pub fn ran(&self) -> u64 {
        self.shared.ran.load(Ordering::Relaxed)
    }

    /// How many states of functions were made.
    pub fn states(&self) -> u64 {
        self.shared.states.load(Ordering::Relaxed)
    }

    /// How often one was copied from or to them.
    pub fn state_copies(&self) -> u64 {
        self.shared.state_copies.load(Ordering::Relaxed)
    }

    /// How many arrays are in memory of its own.
    pub fn own_memory(&self) -> u64 {
        self.shared.own_memory.load(Ordering::Relaxed)
    }

    /// Has functions take no states but those that they made.
    pub fn refuse_states_of_others(&self) {
        self.shared.own_states_alone.store(true, Ordering::Relaxed);
    }

    /// Has all runs fail after `more` of them.
    pub fn fail_after(&self, more: u64) {
        let last = self.ran() + more;
        self.shared.fails_after.store(last, Ordering::Relaxed);
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => drop(std::fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}

impl Engine for Computed {
    fn system(&self) -> Result<System, CoreMlError> {
        let found = |processor, cores| Found { processor, cores };
        Ok(System {
            platform: Platform::Macos,
            version: [self.shared.version, 0],
            text: format!("{}.0 as coremltools has it", self.shared.version),
            processors: vec![
                found(Processor::Cpu, None),
                found(Processor::Gpu, None),
                found(Processor::Ane, Some(16)),
            ],
        })
    }

    /// What is computed is the package itself, once it was found right.
    fn compile(&self, package: &Path, compiled: &Path) -> Result<(), CoreMlError> {
        let request = json!({ "check": package });
        let said = self.shared.server.lock().ask(&request, &[])?;
        if said["problems"] != json!([]) {
            return Err(vendor(said["problems"].to_string()));
        }
        self.shared.compiled.fetch_add(1, Ordering::Relaxed);
        copy(package, compiled).map_err(|source| CoreMlError::Io {
            what: "copying",
            path: package.to_owned(),
            source,
        })
    }

    fn open(&self, compiled: &Path) -> Result<Box<dyn Model>, CoreMlError> {
        Ok(Box::new(Opened {
            engine: self.clone(),
            package: compiled.to_owned(),
        }))
    }

    fn opens_memory(&self) -> Result<(), CoreMlError> {
        match self.shared.version < 15 {
            true => Err(CoreMlError::NotThere {
                what: "memory",
                why: "the system is too old".into(),
            }),
            false => Ok(()),
        }
    }

    fn open_memory(&self, package: PackageInMemory) -> Result<Box<dyn Model>, CoreMlError> {
        let number = self.shared.in_memory.fetch_add(1, Ordering::Relaxed);
        let path = self
            .shared
            .folder
            .path()
            .join(format!("{number}.mlpackage"));
        let data = path.join("Data/com.apple.CoreML");
        std::fs::create_dir_all(data.join("weights")).unwrap();
        std::fs::write(data.join("model.mlmodel"), package.model).unwrap();
        std::fs::write(data.join("weights/weight.bin"), package.weights).unwrap();
        let item =
            |path: &str| json!({ "author": "a", "description": "", "name": "n", "path": path });
        let manifest = json!({
            "fileFormatVersion": "1.0.0",
            "itemInfoEntries": {
                "a": item("com.apple.CoreML/model.mlmodel"),
                "b": item("com.apple.CoreML/weights"),
            },
            "rootModelIdentifier": "a",
        });
        std::fs::write(path.join("Manifest.json"), manifest.to_string()).unwrap();
        let compiled = path.with_extension("mlmodelc");
        self.compile(&path, &compiled)?;
        self.open(&compiled)
    }
}

/// A package that was found right.
#[derive(Debug)]
struct Opened {
    engine: Computed,
    package: PathBuf,
}

impl Model for Opened {
    fn load(
        &self,
        function: &FunctionPlan,
        _: ComputeUnits,
    ) -> Result<Box<dyn Loaded>, CoreMlError> {
        Ok(Box::new(Function {
            shared: self.engine.shared.clone(),
            package: self.package.clone(),
            plan: function.clone(),
        }))
    }

    /// All is on the processor.
    fn compute_plan(&self, units: ComputeUnits) -> Result<ComputePlan, CoreMlError> {
        let request = json!({ "operations": self.package });
        let said = self.engine.shared.server.lock().ask(&request, &[])?;
        let texts = |v: &Value| -> Vec<String> {
            let all = v.as_array().unwrap().iter();
            all.map(|x| x.as_str().unwrap().to_owned()).collect()
        };
        let functions = said["functions"].as_object().unwrap().iter();
        let functions = functions.map(|(name, operations)| {
            let operations = operations.as_array().unwrap().iter();
            let operations = operations.map(|op| {
                let kind = op[0].as_str().unwrap().to_owned();
                let constant = kind.starts_with("const");
                PlannedOperation {
                    kind,
                    results: texts(&op[1]),
                    supported: if constant {
                        vec![]
                    } else {
                        vec![Processor::Cpu]
                    },
                    preferred: (!constant).then_some(Processor::Cpu),
                    cost: None,
                }
            });
            PlannedFunction {
                name: name.clone(),
                operations: operations.collect(),
                nodes: Vec::new(),
            }
        });
        Ok(ComputePlan {
            schema_version: 1,
            constructed: true,
            system: self.engine.system()?.text,
            units: units.name().into(),
            processors: self.engine.system()?.processors,
            functions: functions.collect(),
        })
    }
}

#[derive(Debug)]
struct Function {
    shared: Arc<Shared>,
    package: PathBuf,
    plan: FunctionPlan,
}

/// The states of a function.
#[derive(Debug)]
struct States {
    shared: Arc<Shared>,
    /// The function that made them.
    maker: (PathBuf, Option<String>),
    numbers: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl StateMemory for States {
    fn read(&mut self, state: &Array, to: &mut [u8]) -> Result<(), CoreMlError> {
        self.shared.state_copies.fetch_add(1, Ordering::Relaxed);
        to.copy_from_slice(&self.numbers.lock()[&state.feature]);
        Ok(())
    }

    fn write(&mut self, state: &Array, from: &[u8]) -> Result<(), CoreMlError> {
        self.shared.state_copies.fetch_add(1, Ordering::Relaxed);
        let mut numbers = self.numbers.lock();
        let numbers = numbers.get_mut(&state.feature).unwrap();
        numbers.copy_from_slice(from);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Memory of the engine's own.
#[derive(Debug)]
struct Own(Vec<u8>);

impl ArrayMemory for Own {
    fn write(&mut self, touch: &mut dyn FnMut(&mut [u8])) -> Result<(), CoreMlError> {
        touch(&mut self.0);
        Ok(())
    }

    fn read(&self, touch: &mut dyn FnMut(&[u8])) -> Result<(), CoreMlError> {
        touch(&self.0);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn named<'a>(arrays: impl Iterator<Item = &'a Array>) -> Vec<Value> {
    let each = arrays.map(|a| json!([a.feature, a.element.name(), a.dims]));
    each.collect()
}

impl Loaded for Function {
    fn states(&mut self) -> Result<Box<dyn StateMemory>, CoreMlError> {
        self.shared.states.fetch_add(1, Ordering::Relaxed);
        let arrays = self.plan.states.iter().map(|s| &s.array);
        let numbers = arrays.map(|a| (a.feature.clone(), vec![0; a.bytes()]));
        Ok(Box::new(States {
            shared: self.shared.clone(),
            maker: (self.package.clone(), self.plan.function.clone()),
            numbers: Mutex::new(numbers.collect()),
        }))
    }

    fn memory(&mut self, array: &Array) -> Option<Box<dyn ArrayMemory>> {
        // as surfaces are
        let fits = array.element == Element::F16 && array.dims.last()? % 32 == 0;
        fits.then(|| {
            self.shared.own_memory.fetch_add(1, Ordering::Relaxed);
            Box::new(Own(vec![0; array.bytes()])) as Box<dyn ArrayMemory>
        })
    }

    fn predict(
        &mut self,
        inputs: &[Given<'_>],
        outputs: &mut [Taken<'_>],
        states: Option<&mut dyn StateMemory>,
    ) -> Result<(), CoreMlError> {
        let ran = self.shared.ran.fetch_add(1, Ordering::Relaxed) + 1;
        let last = self.shared.fails_after.load(Ordering::Relaxed);
        if last > 0 && ran > last {
            return Err(vendor("it was told to fail".into()));
        }
        let states = states.as_ref().map(|states| {
            let states = states.as_any().downcast_ref::<States>();
            states.expect("states of this engine")
        });
        assert_eq!(states.is_some(), !self.plan.states.is_empty());
        if let Some(states) = states {
            let own = (self.package.clone(), self.plan.function.clone());
            assert_eq!(own.0, states.maker.0, "states of another package");
            if own != states.maker && self.shared.own_states_alone.load(Ordering::Relaxed) {
                return Err(vendor("the states are of another function".into()));
            }
        }
        let mut data: Vec<&[u8]> = Vec::new();
        for ((array, _), given) in self.plan.inputs.iter().zip(inputs) {
            let bytes = match given {
                Given::Bytes(bytes) => bytes,
                Given::Memory(memory) => &memory.as_any().downcast_ref::<Own>().unwrap().0[..],
            };
            assert_eq!(bytes.len(), array.bytes(), "{}", array.feature);
            data.push(bytes);
        }
        let mut held = states.map(|states| states.numbers.lock());
        let kept: Vec<&Array> = self.plan.states.iter().map(|s| &s.array).collect();
        for array in &kept {
            data.push(&held.as_ref().unwrap()[&array.feature]);
        }
        let results = self.plan.outputs.iter().map(|(a, _)| a.feature.as_str());
        let request = json!({
            "package": self.package,
            "function": self.plan.function.as_deref().unwrap_or("main"),
            "inputs": named(self.plan.inputs.iter().map(|(a, _)| a)),
            "states": named(kept.iter().copied()),
            "outputs": results.collect::<Vec<&str>>(),
            "bytes": data.iter().map(|d| d.len()).sum::<usize>(),
        });
        let mut server = self.shared.server.lock();
        let said = server.ask(&request, &data)?;
        let made = self.plan.outputs.iter().map(|(a, _)| a);
        let made = made.chain(kept.iter().copied()).map(Array::bytes);
        let expected: usize = made.sum();
        assert_eq!(said["bytes"].as_u64().unwrap() as usize, expected);
        let mut take = |to: &mut [u8]| {
            let got = server.from.read_exact(to);
            got.map_err(|e| vendor(e.to_string()))
        };
        for output in outputs {
            match output {
                Taken::Bytes(bytes) => take(bytes)?,
                Taken::Memory(memory) => {
                    let mut taken = Ok(());
                    memory.write(&mut |bytes| taken = take(bytes))?;
                    taken?;
                }
            }
        }
        for array in &kept {
            let held = held.as_mut().unwrap();
            take(held.get_mut(&array.feature).unwrap())?;
        }
        Ok(())
    }
}
