//! An engine for Core ML's devices that computes packages by Apple's definitions of operations, on any computer.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anynpu_coreml::binding::FunctionPlan;
use anynpu_coreml::exec::{Engine, Loaded, Model, System};
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

impl Loaded for Function {
    fn predict(&mut self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), CoreMlError> {
        let ran = self.shared.ran.fetch_add(1, Ordering::Relaxed) + 1;
        let last = self.shared.fails_after.load(Ordering::Relaxed);
        if last > 0 && ran > last {
            return Err(vendor("it was told to fail".into()));
        }
        for ((array, _), bytes) in self.plan.inputs.iter().zip(inputs) {
            assert_eq!(bytes.len(), array.bytes(), "{}", array.feature);
        }
        let named = self.plan.inputs.iter();
        let inputs_told: Vec<Value> = named
            .map(|(a, _)| json!([a.feature, a.element.name(), a.dims]))
            .collect();
        let results = self.plan.outputs.iter().map(|(a, _)| a.feature.as_str());
        let request = json!({
            "package": self.package,
            "function": self.plan.function.as_deref().unwrap_or("main"),
            "inputs": inputs_told,
            "outputs": results.collect::<Vec<&str>>(),
            "bytes": inputs.iter().map(|i| i.len()).sum::<usize>(),
        });
        let mut server = self.shared.server.lock();
        let said = server.ask(&request, inputs)?;
        let expected: usize = outputs.iter().map(|o| o.len()).sum();
        assert_eq!(said["bytes"].as_u64().unwrap() as usize, expected);
        for output in outputs {
            let got = server.from.read_exact(output);
            got.map_err(|e| vendor(e.to_string()))?;
        }
        Ok(())
    }
}
