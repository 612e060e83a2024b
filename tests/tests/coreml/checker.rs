//! Running the checker.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// The checker, its Python, and where what it reads is written.
pub struct Checker {
    python: PathBuf,
    program: PathBuf,
    pub folder: tempfile::TempDir,
    jobs: Vec<Value>,
}

/// A call of a function in a session.
pub struct Call {
    pub function: String,
    pub inputs: PathBuf,
    pub expect: Option<PathBuf>,
}

impl Checker {
    /// The checker, or `None` with the reason printed.
    pub fn find(test: &str) -> Option<Checker> {
        let variable = |name: &str| match std::env::var_os(name).filter(|v| !v.is_empty()) {
            Some(path) => Some(PathBuf::from(path)),
            None => {
                println!("SKIPPED {test}: {name} is not set");
                None
            }
        };
        Some(Checker {
            program: variable("ANYNPU_COREML_CHECKER")?,
            python: variable("ANYNPU_COREML_PYTHON")?,
            folder: tempfile::tempdir().unwrap(),
            jobs: Vec::new(),
        })
    }

    /// Its Python.
    pub fn python(&self) -> &Path {
        &self.python
    }

    /// The checker itself.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Has `package` checked with these options.
    pub fn check(&mut self, package: &Path, options: &[&str]) {
        let mut argv = vec![package.to_str().unwrap(), "--quiet"];
        argv.extend(options);
        self.jobs.push(json!({ "argv": argv }));
    }

    /// Has `package` checked and `calls` made one after the other. States live from call to call; of what is left with the
    /// caller, rows that a call gives are put into what the next is given.
    pub fn session(&mut self, package: &Path, precision: &str, calls: &[Call]) {
        let call =
            |c: &Call| json!({ "function": c.function, "inputs": c.inputs, "expect": c.expect });
        let calls: Vec<Value> = calls.iter().map(call).collect();
        self.jobs
            .push(json!({ "package": package, "precision": precision, "calls": calls }));
    }

    /// What the checker says of each, in order.
    pub fn run(self) -> Vec<Value> {
        let jobs = self.path("jobs.json");
        std::fs::write(&jobs, serde_json::to_string(&self.jobs).unwrap()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/coreml/run.py");
        let output = Command::new(&self.python)
            .arg(script)
            .arg(&self.program)
            .arg(&jobs)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", output.status);
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), self.jobs.len());
        lines
    }
}

/// Fails unless the checker had nothing to say of what is called `name`.
pub fn accepted(name: &str, said: &Value) {
    assert_eq!(said["rc"], 0, "{name}: {}", said["problems"]);
    assert_eq!(said["problems"], json!([]), "{name}");
}
