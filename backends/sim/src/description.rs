//! What a simulated device is: its description, read from TOML.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anynpu_hal::driver::chaos::Fault;
use anynpu_hal::{
    Capabilities, ClaimedRates, FixedShapes, Link, LinkMode, MemoryKind, StateSupport,
};
use anynpu_ir::DType;
use serde::Deserialize;

use crate::SimError;
use crate::figure::{Checker, Figure};
use crate::quirks::{Catalogue, Quirk};

/// The description of a simulated device. `docs/simulated-devices.md` documents the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    name: String,
    models: String,
    /// Names of ops; all if absent.
    ops: Option<BTreeSet<String>>,
    compute: DType,
    weights: Vec<DType>,
    states: StateSupport,
    compiled_form: bool,
    fixed_shapes: Option<FixedShapes>,
    memory_limit: Option<u64>,
    module_limit: Option<u64>,
    link: Option<LinkCost>,
    operations: Vec<(DType, f64)>,
    bytes_per_second: f64,
    dispatch_us: f64,
    busy_watts: Option<f64>,
    thermal: Option<Thermal>,
    quirks: Vec<Quirk>,
    faults: Vec<Fault>,
    sources: Vec<(String, String)>,
}

/// What it costs to bring values to a device that has memory of its own, and back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LinkCost {
    pub latency_us: f64,
    pub bytes_per_second: f64,
}

/// How a device slows down as it gets warm.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Thermal {
    /// (seconds of heat, factor of the speed), ascending; between two points the factor goes straight.
    pub curve: Vec<(f64, f64)>,
    /// Seconds of heat that a second of rest takes away.
    pub recovery: f64,
}

impl Description {
    /// The longest description that is read, in bytes.
    pub const MAX_BYTES: u64 = 64 << 10;

    /// Reads the description in the file at `path`.
    ///
    /// # Errors
    /// A file that can't be read, is too long, or is no description.
    pub fn read(path: &Path) -> Result<Self, SimError> {
        let origin = path.display().to_string();
        let failed = |e: std::io::Error| SimError::Read {
            origin: origin.clone(),
            why: e.to_string(),
        };
        let mut text = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut file = file.take(Self::MAX_BYTES + 1);
        file.read_to_end(&mut text).map_err(failed)?;
        let text = String::from_utf8(text).map_err(|e| SimError::Syntax {
            origin: origin.clone(),
            text: format!("it is no UTF-8 text: {e}"),
        })?;
        Self::parse(&text, &origin)
    }

    /// Reads a description from `text`, which errors call `origin`.
    ///
    /// # Errors
    /// Text that is too long, is no TOML, lacks keys, has unknown ones, or values that make no sense:
    /// the error names the key, its value and what would fit.
    pub fn parse(text: &str, origin: &str) -> Result<Self, SimError> {
        if text.len() as u64 > Self::MAX_BYTES {
            return Err(SimError::Size {
                origin: origin.to_owned(),
                bytes: text.len() as u64,
                limit: Self::MAX_BYTES,
            });
        }
        let file: File = toml::from_str(text).map_err(|e| SimError::Syntax {
            origin: origin.to_owned(),
            text: e.to_string().trim_end().to_owned(),
        })?;
        file.check(Checker { origin })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What real device it is a model of.
    pub fn models(&self) -> &str {
        &self.models
    }

    /// The type it computes in.
    pub fn compute(&self) -> DType {
        self.compute
    }

    /// Its figures' keys and where each comes from.
    pub fn sources(&self) -> &[(String, String)] {
        &self.sources
    }

    /// Names of the quirks it has.
    pub fn quirk_names(&self) -> impl Iterator<Item = &str> {
        self.quirks.iter().map(|q| q.name.as_str())
    }

    /// The description without its quirks.
    #[must_use]
    pub fn without_quirks(mut self) -> Self {
        self.quirks.clear();
        self
    }

    /// What a device of this description claims.
    pub fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new();
        let everything = self.ops.is_none()
            && self.compute == DType::F32
            && DType::ALL.iter().all(|d| self.weights.contains(d))
            && self.quirks.is_empty()
            && self.module_limit.is_none()
            && self.memory_limit.is_none()
            && self.states == StateSupport::InPlaceIo;
        capabilities.features.dynamic_shapes = self.fixed_shapes.is_none();
        capabilities.features.baseline = everything && self.fixed_shapes.is_none();
        capabilities.features.artificial = true;
        capabilities.states = self.states;
        capabilities.compute = vec![self.compute];
        capabilities.weights = self.weights.clone();
        capabilities.memory = vec![self.memory_kind()];
        capabilities.memory_limit = self.memory_limit;
        capabilities.fixed_shapes = self.fixed_shapes.clone();
        let mut rates = ClaimedRates::new(
            self.operations.clone(),
            self.bytes_per_second,
            self.dispatch_us,
        );
        rates.busy_watts = self.busy_watts;
        capabilities.claimed_rates = Some(rates);
        capabilities
    }

    pub(crate) fn memory_kind(&self) -> MemoryKind {
        match self.link {
            None => MemoryKind::Host,
            Some(_) => MemoryKind::DeviceLocal,
        }
    }

    /// Whether it reads and writes the host's own memory.
    pub fn shares_memory(&self) -> bool {
        self.link.is_none()
    }

    /// The edge to the host and through it to other devices, if values are copied.
    pub(crate) fn link(&self) -> Option<Link> {
        self.link.map(|cost| Link {
            mode: LinkMode::Copy,
            bytes_per_second: Some(cost.bytes_per_second),
            latency_us: cost.latency_us,
        })
    }

    pub(crate) fn has_op(&self, name: &str) -> bool {
        self.ops.as_ref().is_none_or(|ops| ops.contains(name))
    }

    pub(crate) fn ops(&self) -> impl Iterator<Item = &str> {
        self.ops.iter().flatten().map(String::as_str)
    }

    pub(crate) fn weights(&self) -> &[DType] {
        &self.weights
    }

    pub(crate) fn states(&self) -> StateSupport {
        self.states
    }

    /// Whether what it compiles can be kept.
    pub(crate) fn has_compiled_form(&self) -> bool {
        self.compiled_form
    }

    /// All that decides what can be compiled for it.
    pub(crate) fn compiled_for(&self) -> String {
        let quirks: Vec<&str> = self.quirk_names().collect();
        format!(
            "{:?} {} {:?} {:?} {:?} {:?} {:?}",
            self.ops,
            self.compute,
            self.weights,
            self.states,
            self.fixed_shapes,
            self.module_limit,
            quirks,
        )
    }

    pub(crate) fn fixed_shapes(&self) -> Option<&FixedShapes> {
        self.fixed_shapes.as_ref()
    }

    pub(crate) fn memory_limit(&self) -> Option<u64> {
        self.memory_limit
    }

    pub(crate) fn quirks(&self) -> &[Quirk] {
        &self.quirks
    }

    pub(crate) fn faults(&self) -> &[Fault] {
        &self.faults
    }

    pub(crate) fn thermal(&self) -> Option<&Thermal> {
        self.thermal.as_ref()
    }

    /// The most bytes of weights that one module may have, and what says so.
    pub(crate) fn module_limit(&self) -> Option<(u64, String)> {
        let own = self
            .module_limit
            .map(|n| (n, "memory.module_bytes".to_owned()));
        let quirks = self.quirks.iter().filter_map(|quirk| {
            let bytes = quirk.module_limit()?;
            Some((bytes, quirk.name.clone()))
        });
        own.into_iter()
            .chain(quirks)
            .min_by_key(|(bytes, _)| *bytes)
    }

    /// Operations per second with weights of type `dtype`.
    pub(crate) fn operations_per_second(&self, dtype: Option<DType>) -> f64 {
        let rate = |wanted| self.operations.iter().find(|(d, _)| Some(*d) == wanted);
        let rate = rate(dtype).or(self.operations.first());
        rate.map_or(f64::INFINITY, |(_, rate)| *rate)
    }

    pub(crate) fn bytes_per_second(&self) -> f64 {
        self.bytes_per_second
    }

    pub(crate) fn dispatch_us(&self) -> f64 {
        self.dispatch_us
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    kind: String,
    models: String,
    ops: AllOrSome,
    compute: String,
    weights: AllOrSome,
    states: String,
    #[serde(default)]
    compiled_form: bool,
    #[serde(default)]
    quirks: Vec<String>,
    #[serde(default)]
    faults: Vec<String>,
    #[serde(default)]
    shapes: ShapesTable,
    memory: MemoryTable,
    speed: SpeedTable,
    link: Option<LinkTable>,
    thermal: Option<ThermalTable>,
    power: Option<PowerTable>,
}

/// A list of names, or the word `all`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "\"all\" or a list of names")]
enum AllOrSome {
    Word(String),
    Names(Vec<String>),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShapesTable {
    tokens: Option<Figure<Vec<u32>>>,
    capacities: Option<Figure<Vec<u32>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryTable {
    kind: String,
    read_bytes_per_second: Figure<f64>,
    limit_bytes: Option<Figure<u64>>,
    module_bytes: Option<Figure<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkTable {
    latency_us: Figure<f64>,
    bytes_per_second: Figure<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpeedTable {
    dispatch_us: Figure<f64>,
    operations: Vec<RateTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateTable {
    weights: String,
    per_second: f64,
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThermalTable {
    curve: Figure<Vec<(f64, f64)>>,
    recovery: Figure<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PowerTable {
    busy_watts: Figure<f64>,
}

impl File {
    fn check(self, c: Checker<'_>) -> Result<Description, SimError> {
        c.name("name", &self.name)?;
        if self.kind != "simulated" {
            let found = format!("\"{}\"", self.kind.escape_debug());
            return Err(c.wrong(
                "kind",
                found,
                "\"simulated\": no description is a real device",
            ));
        }
        c.text("models", &self.models)?;
        let compute = dtype(&c, "compute", &self.compute)?;
        if !compute.is_float() {
            return Err(c.wrong("compute", compute, "f32, f16 or bf16"));
        }
        let states = match self.states.as_str() {
            "none" => StateSupport::None,
            "slice_io" => StateSupport::SliceIo,
            "in_place" => StateSupport::InPlaceIo,
            "native" => StateSupport::Native,
            other => {
                let found = format!("\"{}\"", other.escape_debug());
                return Err(c.wrong("states", found, "none, slice_io, in_place or native"));
            }
        };
        let mut sources = Sources(Vec::new());
        let memory = &self.memory;
        let bytes_per_second = c.number(
            sources.of(
                "memory.read_bytes_per_second",
                &memory.read_bytes_per_second,
            ),
            &memory.read_bytes_per_second,
            1e3,
            1e15,
        )?;
        let mut limit = |key, figure: &Option<Figure<u64>>| {
            let figure = figure.as_ref();
            figure.map(|f| c.bytes(sources.of(key, f), f)).transpose()
        };
        let memory_limit = limit("memory.limit_bytes", &memory.limit_bytes)?;
        let module_limit = limit("memory.module_bytes", &memory.module_bytes)?;
        let link = self.link(&c, &mut sources)?;
        let operations = self.operations(&c, &mut sources)?;
        let dispatch = &self.speed.dispatch_us;
        let dispatch_us = c.number(
            sources.of("speed.dispatch_us", dispatch),
            dispatch,
            0.0,
            1e7,
        )?;
        let busy_watts = match &self.power {
            None => None,
            Some(power) => {
                let key = sources.of("power.busy_watts", &power.busy_watts);
                Some(c.number(key, &power.busy_watts, 1e-6, 1e5)?)
            }
        };
        let fixed_shapes = self.shapes(&c, &mut sources)?;
        let thermal = self.thermal(&c, &mut sources)?;
        Ok(Description {
            ops: self.ops(&c)?,
            compute,
            weights: self.weights(&c)?,
            states,
            compiled_form: self.compiled_form,
            fixed_shapes,
            memory_limit,
            module_limit,
            link,
            operations,
            bytes_per_second,
            dispatch_us,
            busy_watts,
            thermal,
            quirks: self.quirks(&c)?,
            faults: faults(&c, &self.faults)?,
            sources: sources.0,
            name: self.name,
            models: self.models,
        })
    }

    fn ops(&self, c: &Checker<'_>) -> Result<Option<BTreeSet<String>>, SimError> {
        let names = match &self.ops {
            AllOrSome::Word(word) if word == "all" => return Ok(None),
            AllOrSome::Word(word) => {
                let found = format!("\"{}\"", word.escape_debug());
                return Err(c.wrong("ops", found, "\"all\" or a list of op names"));
            }
            AllOrSome::Names(names) => names,
        };
        for name in names {
            if !OPS.contains(&name.as_str()) {
                let found = format!("\"{}\"", name.escape_debug());
                return Err(c.wrong("ops", found, format!("some of {}", OPS.join(", "))));
            }
        }
        Ok(Some(names.iter().cloned().collect()))
    }

    fn weights(&self, c: &Checker<'_>) -> Result<Vec<DType>, SimError> {
        match &self.weights {
            AllOrSome::Word(word) if word == "all" => Ok(DType::ALL.to_vec()),
            AllOrSome::Word(word) => Err(c.wrong(
                "weights",
                format!("\"{}\"", word.escape_debug()),
                "\"all\" or a list of element types",
            )),
            AllOrSome::Names(names) => {
                let types = names.iter().map(|name| dtype(c, "weights", name));
                types.collect()
            }
        }
    }

    fn link(&self, c: &Checker<'_>, sources: &mut Sources) -> Result<Option<LinkCost>, SimError> {
        match (self.memory.kind.as_str(), &self.link) {
            ("host", None) => Ok(None),
            ("own", Some(link)) => {
                let key = sources.of("link.latency_us", &link.latency_us);
                let latency_us = c.number(key, &link.latency_us, 0.0, 1e7)?;
                let key = sources.of("link.bytes_per_second", &link.bytes_per_second);
                Ok(Some(LinkCost {
                    latency_us,
                    bytes_per_second: c.number(key, &link.bytes_per_second, 1e3, 1e15)?,
                }))
            }
            ("host", Some(_)) => Err(c.wrong(
                "memory.kind",
                "\"host\"",
                "\"own\", as there is a table [link]; memory of the host needs no link",
            )),
            ("own", None) => Err(c.wrong(
                "memory.kind",
                "\"own\"",
                "a table [link] that says what copying costs, or \"host\"",
            )),
            (other, _) => {
                let found = format!("\"{}\"", other.escape_debug());
                let expected =
                    "\"host\" (it works in the host's memory) or \"own\" (values are copied)";
                Err(c.wrong("memory.kind", found, expected))
            }
        }
    }

    fn operations(
        &self,
        c: &Checker<'_>,
        sources: &mut Sources,
    ) -> Result<Vec<(DType, f64)>, SimError> {
        if self.speed.operations.is_empty() {
            let expected = "at least one rate, that of the usual type of weights first";
            return Err(c.wrong("speed.operations", "empty", expected));
        }
        let mut rates: Vec<(DType, f64)> = Vec::new();
        for (i, rate) in self.speed.operations.iter().enumerate() {
            let key = format!("speed.operations[{i}]");
            let weights = dtype(c, &format!("{key}.weights"), &rate.weights)?;
            if rates.iter().any(|(d, _)| *d == weights) {
                return Err(c.wrong(
                    &format!("{key}.weights"),
                    weights,
                    "each type of weights once",
                ));
            }
            c.source(&key, &rate.source)?;
            sources.0.push((key.clone(), rate.source.clone()));
            let per_second = c.plain(&format!("{key}.per_second"), rate.per_second, 1e3, 1e18)?;
            rates.push((weights, per_second));
        }
        Ok(rates)
    }

    fn shapes(
        &self,
        c: &Checker<'_>,
        sources: &mut Sources,
    ) -> Result<Option<FixedShapes>, SimError> {
        let mut sizes = |key, figure: &Option<Figure<Vec<u32>>>| match figure {
            None => Ok(Vec::new()),
            Some(figure) => c.sizes(sources.of(key, figure), figure),
        };
        let tokens = sizes("shapes.tokens", &self.shapes.tokens)?;
        let capacities = sizes("shapes.capacities", &self.shapes.capacities)?;
        let dynamic = tokens.is_empty() && capacities.is_empty();
        Ok((!dynamic).then_some(FixedShapes { tokens, capacities }))
    }

    fn thermal(&self, c: &Checker<'_>, sources: &mut Sources) -> Result<Option<Thermal>, SimError> {
        let Some(table) = &self.thermal else {
            return Ok(None);
        };
        let key = sources.of("thermal.curve", &table.curve);
        c.source(key, &table.curve.source)?;
        let curve = &table.curve.value;
        let rising = curve.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let starts = curve.first().is_some_and(|(at, _)| *at == 0.0);
        let legal = |&(at, factor): &(f64, f64)| {
            at.is_finite() && (0.0..=1e6).contains(&at) && (0.01..=1.0).contains(&factor)
        };
        if !rising || !starts || !curve.iter().all(legal) || curve.len() > MAX_POINTS {
            let expected = format!(
                "at most {MAX_POINTS} points [seconds, factor]: seconds from 0 on, rising to at most 1000000; factors from 0.01 to 1"
            );
            return Err(c.wrong("thermal.curve.value", format!("{curve:?}"), expected));
        }
        let key = sources.of("thermal.recovery", &table.recovery);
        Ok(Some(Thermal {
            curve: curve.clone(),
            recovery: c.number(key, &table.recovery, 0.0, 1e6)?,
        }))
    }

    fn quirks(&self, c: &Checker<'_>) -> Result<Vec<Quirk>, SimError> {
        let catalogue = Catalogue::shipped();
        let quirk = |name: &String| {
            catalogue.find(name).cloned().ok_or_else(|| {
                let known: Vec<&str> = catalogue.quirks().iter().map(|q| &*q.name).collect();
                let found = format!("\"{}\"", name.escape_debug());
                c.wrong("quirks", found, format!("some of {}", known.join(", ")))
            })
        };
        self.quirks.iter().map(quirk).collect()
    }
}

/// The figures' keys and sources, as they are read.
struct Sources(Vec<(String, String)>);

impl Sources {
    fn of<'k, T>(&mut self, key: &'k str, figure: &Figure<T>) -> &'k str {
        self.0.push((key.to_owned(), figure.source.clone()));
        key
    }
}

/// The element type called `name`.
fn dtype(c: &Checker<'_>, key: &str, name: &str) -> Result<DType, SimError> {
    name.parse().map_err(|()| {
        let all: Vec<&str> = DType::ALL.iter().map(|d| d.name()).collect();
        let found = format!("\"{}\"", name.escape_debug());
        c.wrong(key, found, format!("one of {}", all.join(", ")))
    })
}

/// The faults in a list such as `submit:3=lost`.
fn faults(c: &Checker<'_>, list: &[String]) -> Result<Vec<Fault>, SimError> {
    list.iter()
        .map(|text| {
            parse_fault(text)
                .map_err(|e| c.wrong("faults", format!("\"{}\"", text.escape_debug()), e))
        })
        .collect()
}

/// Reads one fault; the error says what would fit.
pub(crate) fn parse_fault(text: &str) -> Result<Fault, String> {
    let fault: Fault = text.parse().map_err(|_| FAULTS.to_owned())?;
    match fault {
        Fault::LoseAtSubmit(_)
        | Fault::FailAfterSubmit(_)
        | Fault::HangAtSubmit(_)
        | Fault::RefuseCompile(_)
        | Fault::OutOfMemoryAtAllocate(_) => Ok(fault),
        Fault::DelaySubmit(_, by) if by <= MAX_DELAY => Ok(fault),
        _ => Err(FAULTS.to_owned()),
    }
}

const FAULTS: &str =
    "submit:N=lost|fail|hang|delay:MS (at most an hour), compile:N=refuse or allocate:N=oom";
const MAX_DELAY: Duration = Duration::from_secs(3600);
const MAX_POINTS: usize = 64;

/// Names of all ops.
pub(crate) const OPS: &[&str] = &[
    "Linear",
    "ExpertLinear",
    "MatMul",
    "Embedding",
    "RmsNorm",
    "LayerNorm",
    "Rope",
    "Attention",
    "KvAppend",
    "StateRead",
    "CausalMask",
    "Softmax",
    "Unary",
    "Activation",
    "GatedActivation",
    "SoftCap",
    "Binary",
    "Select",
    "Gather",
    "Scatter",
    "Reshape",
    "Transpose",
    "Broadcast",
    "Slice",
    "Concat",
    "Split",
    "Reduce",
    "Cast",
    "Quantize",
    "Dequantize",
    "TopK",
    "ArgMax",
    "Conv1d",
    "Conv2d",
    "Iota",
];
