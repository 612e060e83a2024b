//! Measurements of devices, as a file that can be moved to another machine.
//!
//! A [`Profile`] is what [`probe`](crate::probe) found: figures of each device, each with its spread,
//! and of the edges between them. Files are JSON with a `schema_version`. They are untrusted: a file
//! is bounded in size and every figure is checked when it is read.

mod claims;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anynpu_ir::DType;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use claims::{Claims, OpCheck, StatedRates};

/// The schema that this version reads and writes.
pub const PROFILE_VERSION: u32 = 1;

/// Largest file that is read, in bytes.
pub const MAX_PROFILE_BYTES: u64 = 4 << 20;

/// A profile that can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The file can't be read or written.
    #[error("profile {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is too large to be a profile.
    #[error("profile {} has more than {MAX_PROFILE_BYTES} bytes, the most that is read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not JSON of a profile's form.
    #[error("profile {}: {why}; expected JSON as `anynpu probe --save` writes it", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        why: String,
    },
    /// A value that makes no sense.
    #[error("profile {}: {key} is {found}; expected {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Where in the document.
        key: String,
        /// What stands there.
        found: String,
        /// What would fit.
        expected: String,
    },
}

/// A figure measured several times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The middle one.
    pub median: f64,
    /// A tenth are below it.
    pub p10: f64,
    /// A tenth are above it.
    pub p90: f64,
    /// How many there are.
    pub runs: u32,
}

impl Sample {
    /// The sample of `values`; `None` if there are none, or one that is not finite. Values below
    /// `least` count as that, since no figure of a profile is 0.
    pub fn of(values: &[f64], least: f64) -> Option<Sample> {
        if values.is_empty() || !values.iter().all(|v| v.is_finite()) {
            return None;
        }
        let mut sorted: Vec<f64> = values.iter().map(|v| rounded(v.max(least))).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        Some(Sample {
            median: rounded(0.5 * (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2])),
            p10: at(0.1),
            p90: at(0.9),
            runs: sorted.len() as u32,
        })
    }

    /// The distance between the tenth below and the tenth above.
    pub fn spread(&self) -> f64 {
        self.p90 - self.p10
    }

    /// The same with `f` of each figure, which must be increasing or decreasing.
    #[must_use]
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Sample {
        let (a, b) = (rounded(f(self.p10)), rounded(f(self.p90)));
        Sample {
            median: rounded(f(self.median)),
            p10: a.min(b),
            p90: a.max(b),
            runs: self.runs,
        }
    }
}

/// `x` with the six digits that are worth writing down.
pub(crate) fn rounded(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}

/// A bandwidth at one size of the memory gone through.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Bytes gone through.
    pub bytes: u64,
    /// Bytes per second.
    pub bytes_per_second: Sample,
}

/// The time of a product with weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProductTime {
    /// Type of the weights.
    pub dtype: String,
    /// Rows of the weight matrix, and elements of each result.
    pub rows: u32,
    /// Columns of the weight matrix.
    pub columns: u32,
    /// Rows multiplied at once.
    pub tokens: u32,
    /// Whether each product read weights that the caches did not hold.
    pub cold: bool,
    /// Microseconds of one product.
    pub us: Sample,
}

impl ProductTime {
    /// Elements of the weight matrix.
    pub fn elements(&self) -> f64 {
        f64::from(self.rows) * f64::from(self.columns)
    }

    /// Operations per second; a multiply-add is two.
    pub fn operations_per_second(&self) -> f64 {
        2e6 * self.elements() * f64::from(self.tokens) / self.us.median
    }
}

/// The time of a node without weights to speak of: a norm, an activation, a rotation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValueTime {
    /// `norm`, `gate`, `rope`, `add` or `append`.
    pub op: String,
    /// Bytes it reads and writes.
    pub bytes: u64,
    /// Microseconds of one node.
    pub us: Sample,
}

/// The time of attention over cached rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttentionTime {
    /// Type the rows are kept in.
    pub dtype: String,
    /// Queries at once.
    pub tokens: u32,
    /// Rows before them.
    pub cached: u32,
    /// Operations of one node; a multiply-add is two.
    pub operations: f64,
    /// Microseconds of one node.
    pub us: Sample,
}

/// Blocks of a transformer as models have them, measured in one piece.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anchor {
    /// `prefill` or `decode`.
    pub phase: String,
    /// Type of the weights.
    pub dtype: String,
    /// Tokens at once.
    pub tokens: u32,
    /// Rows before them.
    pub cached: u32,
    /// Width of the block.
    pub hidden: u32,
    /// Elements of its widest weight matrix.
    pub elements: u64,
    /// Microseconds of one block.
    pub us: Sample,
    /// Microseconds that its nodes take each by itself, by the profile's other figures.
    pub nodes_us: f64,
}

impl Anchor {
    /// What the time of single nodes is to be multiplied by.
    pub fn factor(&self) -> f64 {
        self.us.median / self.nodes_us
    }
}

/// What observed runs took compared with what was predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// Which runs, e.g. `decode q4_0`.
    pub pattern: String,
    /// What predictions are multiplied by, from 1/4 to 4.
    pub factor: f64,
    /// Mean of measured over predicted (without any correction) so far.
    pub mean: f64,
    /// Mean distance from it.
    pub spread: f64,
    /// Runs observed.
    pub runs: u32,
}

/// Something that a device failed at while it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What was measured.
    pub what: String,
    /// What the device said.
    pub error: String,
}

/// The threads with which each phase is fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BestThreads {
    /// Reading a prompt.
    pub prefill: u32,
    /// Generating.
    pub decode: u32,
}

/// What was measured of one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceProfile {
    /// Short name, as it is planned with.
    pub name: String,
    /// Name of its driver.
    pub driver: String,
    /// Kind, as `anynpu devices` has it.
    pub kind: String,
    /// For people.
    pub description: String,
    /// When, in UTC.
    pub taken_at: String,
    /// Whether its time is virtual: of a model of a device, not of a device.
    pub simulated: bool,
    /// Whether only the most important was measured.
    pub quick: bool,
    /// Microseconds of starting a run of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatch_us: Option<Sample>,
    /// Microseconds of a node with next to nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_us: Option<Sample>,
    /// Bytes of weights that products with one row read per second, by the bytes of all weights.
    #[serde(default)]
    pub read: Vec<CurvePoint>,
    /// Bytes that copies read and write per second, by the bytes of both sides.
    #[serde(default)]
    pub copy: Vec<CurvePoint>,
    /// Products with weights.
    #[serde(default)]
    pub products: Vec<ProductTime>,
    /// Other nodes.
    #[serde(default)]
    pub values: Vec<ValueTime>,
    /// Attention.
    #[serde(default)]
    pub attention: Vec<AttentionTime>,
    /// Whole blocks.
    #[serde(default)]
    pub anchors: Vec<Anchor>,
    /// Threads, of a processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_threads: Option<BestThreads>,
    /// What was left out, and why.
    #[serde(default)]
    pub not_measured: Vec<String>,
    /// What it failed at.
    #[serde(default)]
    pub failed: Vec<Verdict>,
    /// What it said of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<Claims>,
    /// What came of trying what it says it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<OpCheck>,
    /// Learned from runs.
    #[serde(default)]
    pub corrections: Vec<Correction>,
}

/// What was measured of the edge between two devices. `host` stands for the host's memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkProfile {
    /// Where values are.
    pub from: String,
    /// Where they are needed.
    pub to: String,
    /// `native`, `import` or `copy`.
    pub mode: String,
    /// Microseconds of bringing over next to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Sample>,
    /// Bytes per second of bringing over much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<Sample>,
}

/// Cores that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Their numbers.
    pub cores: Vec<u32>,
    /// Their highest frequency in MHz, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_mhz: Option<u32>,
}

/// The machine that was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Operating system and processor family.
    pub system: String,
    /// Cores that a program can use.
    pub cores: u32,
    /// Groups of equal cores, where the system tells.
    #[serde(default)]
    pub clusters: Vec<Cluster>,
    /// Bytes of the largest cache, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_level_cache: Option<u64>,
}

/// Measurements of one or several devices of one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// [`PROFILE_VERSION`].
    pub schema_version: u32,
    /// The machine.
    pub host: Host,
    /// The devices.
    pub devices: Vec<DeviceProfile>,
    /// The edges between them.
    #[serde(default)]
    pub links: Vec<LinkProfile>,
}

impl Profile {
    /// Reads the profile at `path`.
    ///
    /// # Errors
    /// A file that can't be read, is too large, is of another schema, or holds a figure that makes no sense.
    pub fn load(path: impl AsRef<Path>) -> Result<Profile, ProfileError> {
        let path = path.as_ref();
        let io = |source| ProfileError::Io {
            path: path.into(),
            source,
        };
        let mut text = Vec::new();
        let file = File::open(path).map_err(io)?;
        let mut bounded = file.take(MAX_PROFILE_BYTES + 1);
        bounded.read_to_end(&mut text).map_err(io)?;
        Profile::parse(path, &text)
    }

    /// Reads a profile from `text`, which errors call `path`.
    ///
    /// # Errors
    /// As [`Profile::load`].
    pub fn parse(path: impl AsRef<Path>, text: &[u8]) -> Result<Profile, ProfileError> {
        let path = path.as_ref();
        if text.len() as u64 > MAX_PROFILE_BYTES {
            return Err(ProfileError::TooLarge { path: path.into() });
        }
        let syntax = |e: serde_json::Error| ProfileError::Syntax {
            path: path.into(),
            why: e.to_string(),
        };
        /// What every version has.
        #[derive(Deserialize)]
        struct Version {
            schema_version: u64,
        }
        let version: Version = serde_json::from_slice(text).map_err(syntax)?;
        if version.schema_version != u64::from(PROFILE_VERSION) {
            return Err(ProfileError::Value {
                path: path.into(),
                key: "schema_version".into(),
                found: version.schema_version.to_string(),
                expected: format!("{PROFILE_VERSION}: measure again with `anynpu probe`"),
            });
        }
        let profile: Profile = serde_json::from_slice(text).map_err(syntax)?;
        match profile.fault() {
            None => Ok(profile),
            Some(Fault {
                key,
                found,
                expected,
            }) => Err(ProfileError::Value {
                path: path.into(),
                key,
                found,
                expected: expected.into(),
            }),
        }
    }

    /// The profile as a file has it.
    pub fn to_json(&self) -> String {
        // strings and finite numbers always serialise
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Writes the profile to `path`, whole or not at all.
    ///
    /// # Errors
    /// A place that can't be written to.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), ProfileError> {
        let path = path.as_ref();
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(self.to_json().as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|e| e.error)?;
            Ok(())
        };
        write().map_err(|source| ProfileError::Io {
            path: path.into(),
            source,
        })
    }

    /// What was measured of the device called `name`.
    pub fn device(&self, name: &str) -> Option<&DeviceProfile> {
        self.devices.iter().find(|d| d.name == name)
    }

    /// What was measured of the edge from `from` to `to`.
    pub fn link(&self, from: &str, to: &str) -> Option<&LinkProfile> {
        self.links.iter().find(|l| l.from == from && l.to == to)
    }

    /// The first thing in it that makes no sense.
    fn fault(&self) -> Option<Fault> {
        for (i, device) in self.devices.iter().enumerate() {
            let at = format!("devices[{i}]");
            if self.devices[..i].iter().any(|d| d.name == device.name) {
                return fault(
                    at + ".name",
                    &device.name,
                    "a name that no other device has",
                );
            }
            if let Some(found) = device.fault(&at) {
                return Some(found);
            }
        }
        for (i, link) in self.links.iter().enumerate() {
            let at = format!("links[{i}]");
            if !["native", "import", "copy"].contains(&link.mode.as_str()) {
                return fault(at + ".mode", &link.mode, "native, import or copy");
            }
            let figures = [
                ("latency_us", link.latency_us),
                ("bytes_per_second", link.bytes_per_second),
            ];
            for (key, sample) in figures {
                if let Some(found) = sample.and_then(|s| sample_fault(&format!("{at}.{key}"), &s)) {
                    return Some(found);
                }
            }
        }
        None
    }
}

/// Something in a profile that makes no sense.
struct Fault {
    key: String,
    found: String,
    expected: &'static str,
}

fn fault(key: String, found: impl ToString, expected: &'static str) -> Option<Fault> {
    Some(Fault {
        key,
        found: found.to_string(),
        expected,
    })
}

/// Above this, figures are no measurements.
const MOST: f64 = 1e18;

fn number_fault(key: String, found: f64) -> Option<Fault> {
    match found.is_finite() && found > 0.0 && found < MOST {
        true => None,
        false => fault(key, found, "a number above 0 and below 1e18"),
    }
}

fn sample_fault(key: &str, sample: &Sample) -> Option<Fault> {
    let figures = [
        ("median", sample.median),
        ("p10", sample.p10),
        ("p90", sample.p90),
    ];
    for (part, value) in figures {
        if let Some(found) = number_fault(format!("{key}.{part}"), value) {
            return Some(found);
        }
    }
    if sample.p10 > sample.median || sample.median > sample.p90 {
        let found = format!("{}, {}, {}", sample.p10, sample.median, sample.p90);
        return fault(key.into(), found, "p10, median and p90 in ascending order");
    }
    match sample.runs {
        0 => fault(format!("{key}.runs"), 0, "1 or more"),
        _ => None,
    }
}

fn dtype_fault(key: String, name: &str) -> Option<Fault> {
    match name.parse::<DType>() {
        Ok(_) => None,
        Err(_) => fault(key, format!("'{name}'"), "an element type such as q4_0"),
    }
}

impl DeviceProfile {
    /// What came of trying nodes of the kind `op` ([`OpCheck::op`]) over `weights`; of several, the worst.
    pub fn check(&self, op: &str, weights: Option<&str>) -> Option<&OpCheck> {
        let same = |c: &&OpCheck| c.op == op && c.weights.as_deref() == weights;
        let checks = || self.checks.iter().filter(same);
        let bad = checks().find(|c| c.outcome.obstacle().is_some());
        bad.or_else(|| checks().next())
    }

    fn fault(&self, at: &str) -> Option<Fault> {
        if let Some((key, found, expected)) = self.claims.as_ref().and_then(Claims::fault) {
            return fault(format!("{at}.claims.{key}"), found, expected);
        }
        for (i, check) in self.checks.iter().enumerate() {
            if let Some(name) = &check.weights
                && let Some(found) = dtype_fault(format!("{at}.checks[{i}].weights"), name)
            {
                return Some(found);
            }
        }
        let single = [("dispatch_us", self.dispatch_us), ("node_us", self.node_us)];
        let single = single
            .iter()
            .filter_map(|(key, sample)| Some((format!("{at}.{key}"), (*sample)?)));
        let curves = [("read", &self.read), ("copy", &self.copy)];
        let curves = curves.iter().flat_map(|(key, curve)| {
            let points = curve.iter().enumerate();
            points.map(move |(i, p)| {
                (
                    format!("{at}.{key}[{i}].bytes_per_second"),
                    p.bytes_per_second,
                )
            })
        });
        let list = |key: &'static str, samples: Vec<Sample>| {
            let samples = samples.into_iter().enumerate();
            samples.map(move |(i, s)| (format!("{at}.{key}[{i}].us"), s))
        };
        let products = list("products", self.products.iter().map(|p| p.us).collect());
        let values = list("values", self.values.iter().map(|v| v.us).collect());
        let attention = list("attention", self.attention.iter().map(|a| a.us).collect());
        let anchors = list("anchors", self.anchors.iter().map(|a| a.us).collect());
        let mut samples = single
            .chain(curves)
            .chain(products)
            .chain(values)
            .chain(attention)
            .chain(anchors);
        if let Some(found) = samples.find_map(|(key, s)| sample_fault(&key, &s)) {
            return Some(found);
        }
        let mut numbers: Vec<(String, f64)> = Vec::new();
        for (i, p) in self.read.iter().enumerate() {
            numbers.push((format!("{at}.read[{i}].bytes"), p.bytes as f64));
        }
        for (i, p) in self.copy.iter().enumerate() {
            numbers.push((format!("{at}.copy[{i}].bytes"), p.bytes as f64));
        }
        for (i, p) in self.products.iter().enumerate() {
            if let Some(found) = dtype_fault(format!("{at}.products[{i}].dtype"), &p.dtype) {
                return Some(found);
            }
            numbers.push((format!("{at}.products[{i}].rows"), p.rows.into()));
            numbers.push((format!("{at}.products[{i}].columns"), p.columns.into()));
            numbers.push((format!("{at}.products[{i}].tokens"), p.tokens.into()));
        }
        for (i, v) in self.values.iter().enumerate() {
            numbers.push((format!("{at}.values[{i}].bytes"), v.bytes as f64));
        }
        for (i, a) in self.attention.iter().enumerate() {
            if let Some(found) = dtype_fault(format!("{at}.attention[{i}].dtype"), &a.dtype) {
                return Some(found);
            }
            numbers.push((format!("{at}.attention[{i}].tokens"), a.tokens.into()));
            numbers.push((format!("{at}.attention[{i}].operations"), a.operations));
        }
        for (i, a) in self.anchors.iter().enumerate() {
            if let Some(found) = dtype_fault(format!("{at}.anchors[{i}].dtype"), &a.dtype) {
                return Some(found);
            }
            if !["prefill", "decode"].contains(&a.phase.as_str()) {
                let key = format!("{at}.anchors[{i}].phase");
                return fault(key, format!("'{}'", a.phase), "prefill or decode");
            }
            numbers.push((format!("{at}.anchors[{i}].tokens"), a.tokens.into()));
            numbers.push((format!("{at}.anchors[{i}].elements"), a.elements as f64));
            numbers.push((format!("{at}.anchors[{i}].nodes_us"), a.nodes_us));
        }
        for (i, c) in self.corrections.iter().enumerate() {
            let at = format!("{at}.corrections[{i}]");
            numbers.push((format!("{at}.mean"), c.mean));
            if !(0.25..=4.0).contains(&c.factor) {
                return fault(at + ".factor", c.factor, "from 0.25 to 4");
            }
            if !(c.spread.is_finite() && (0.0..MOST).contains(&c.spread)) {
                return fault(at + ".spread", c.spread, "a number from 0");
            }
        }
        if let Some(threads) = self.best_threads {
            numbers.push((format!("{at}.best_threads.prefill"), threads.prefill.into()));
            numbers.push((format!("{at}.best_threads.decode"), threads.decode.into()));
        }
        numbers
            .into_iter()
            .find_map(|(key, value)| number_fault(key, value))
    }
}

#[cfg(test)]
mod tests;
