//! What work costs on one device.

use std::collections::BTreeMap;

use anynpu_hal::{ClaimedRates, DeviceKind};
use anynpu_ir::{
    AttentionKv, DType, Graph, Node, Op, Symbol, SymbolValues, ValueDef, Work, weight_dtype,
};

use super::curve::{Curve, between};
use super::{Estimate, EstimateSource};
use crate::plan::Phase;
use crate::profile::DeviceProfile;

/// What decides how fast the nodes of a graph run besides their own size.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GraphScale {
    /// Bytes of all weights: what a step goes through.
    pub weight_bytes: f64,
    /// Elements of the widest matrix of a layer.
    pub elements: f64,
    /// The type that most of the weights' bytes have.
    pub dtype: DType,
}

impl GraphScale {
    pub fn of(graph: &Graph) -> GraphScale {
        let none = SymbolValues::step(1, 0, 1, 1);
        let mut bytes: BTreeMap<&'static str, (f64, DType)> = BTreeMap::new();
        for weight in graph.weights() {
            let ty = graph.ty(weight.value);
            let size = ty.bytes(&none).unwrap_or(usize::MAX) as f64;
            bytes.entry(ty.dtype.name()).or_insert((0.0, ty.dtype)).0 += size;
        }
        let products = graph.nodes().iter().filter(|n| n.layer().is_some());
        let elements = products.filter_map(|n| {
            weight_dtype(graph, n)?;
            graph.ty(n.inputs[1]).shape.elements(&none)
        });
        let most = bytes.values().max_by(|a, b| a.0.total_cmp(&b.0));
        GraphScale {
            weight_bytes: bytes.values().map(|b| b.0).sum(),
            elements: elements.max().unwrap_or(1) as f64,
            dtype: most.map_or(DType::F32, |m| m.1),
        }
    }
}

/// What work costs on one device.
#[derive(Clone, Debug)]
pub(crate) struct DeviceCost {
    rates: Rates,
    rates_source: EstimateSource,
    measured: Option<Measured>,
}

/// Rates of a device of which nothing was measured.
#[derive(Clone, Debug)]
struct Rates {
    /// Operations per microsecond: of any product, then of those with weights of a type.
    operations: (f64, Vec<(DType, f64)>),
    /// Bytes read or written per microsecond.
    bytes_per_us: f64,
    /// Starting a run of nodes, in microseconds.
    dispatch_us: f64,
}

/// Round figures for laptops and phones of the early 2020s: orders of magnitude, no device's own.
fn guessed(kind: DeviceKind) -> Rates {
    let (operations_per_us, bytes_per_us, dispatch_us) = match kind {
        DeviceKind::Gpu => (1e6, 50e3, 50.0),
        DeviceKind::Npu => (5e6, 30e3, 100.0),
        _ => (100e3, 20e3, 1.0),
    };
    Rates {
        operations: (operations_per_us, Vec::new()),
        bytes_per_us,
        dispatch_us,
    }
}

/// The driver's statement, if it can be reckoned with.
fn stated(claimed: &ClaimedRates) -> Option<Rates> {
    let usable = |x: f64| x.is_finite() && x > 0.0;
    let &(_, usual) = claimed.operations.first()?;
    let all = claimed.operations.iter().map(|o| o.1);
    let dispatch = claimed.dispatch_us.is_finite() && claimed.dispatch_us >= 0.0;
    if !all.chain([claimed.bytes_per_second]).all(usable) || !dispatch {
        return None;
    }
    let each = claimed.operations.iter().map(|&(d, rate)| (d, rate / 1e6));
    Some(Rates {
        operations: (usual / 1e6, each.collect()),
        bytes_per_us: claimed.bytes_per_second / 1e6,
        dispatch_us: claimed.dispatch_us,
    })
}

/// A profile's figures as curves.
#[derive(Clone, Debug)]
struct Measured {
    dispatch_us: Option<f64>,
    node_us: f64,
    /// For each type, ascending rows at once with microseconds by elements of the matrix.
    products: Vec<(DType, Vec<(f64, Curve)>)>,
    /// For each type, the elements of the smallest matrix that was read cold.
    cold_from: BTreeMap<&'static str, f64>,
    /// Microseconds by bytes, of each kind of node.
    values: BTreeMap<String, Curve>,
    /// For each type of cache, microseconds of an operation for each of the rows at once.
    attention: Vec<(DType, Curve)>,
    /// Bytes per microsecond, by bytes gone through.
    read: Vec<(f64, f64)>,
    copy: Vec<(f64, f64)>,
    /// Type, elements of the widest matrix, rows at once, factor.
    anchors: Vec<(DType, f64, f64, f64)>,
    /// What was learned, by pattern.
    corrections: BTreeMap<String, f64>,
}

impl Measured {
    fn new(profile: &DeviceProfile) -> Measured {
        let node_us = profile.node_us.map_or(0.0, |s| s.median);
        let mut products: Vec<(DType, Vec<(f64, Curve)>)> = Vec::new();
        let mut cold_from: BTreeMap<&'static str, f64> = BTreeMap::new();
        for dtype in DType::ALL {
            let own = || profile.products.iter().filter(|p| p.dtype == dtype.name());
            let mut rows: Vec<u32> = own().map(|p| p.tokens).collect();
            rows.sort_unstable();
            rows.dedup();
            let curves = rows.iter().map(|&t| {
                let same = own().filter(|p| p.tokens == t);
                let points = same.map(|p| (p.elements(), p.us.median));
                (f64::from(t), Curve::rising(points))
            });
            if !rows.is_empty() {
                products.push((dtype, curves.collect()));
            }
            let cold = own().filter(|p| p.cold).map(|p| p.elements());
            cold_from.insert(dtype.name(), cold.fold(f64::INFINITY, f64::min));
        }
        let mut values: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for v in &profile.values {
            let points = values.entry(v.op.clone()).or_default();
            points.push((v.bytes as f64, v.us.median));
        }
        let attention = DType::ALL.into_iter().filter_map(|dtype| {
            let own = profile.attention.iter().filter(|a| a.dtype == dtype.name());
            let points = own.map(|a| {
                let net = (a.us.median - node_us).max(0.1 * a.us.median);
                let tokens = f64::from(a.tokens);
                (tokens, net * tokens / a.operations)
            });
            let curve = Curve::rising(points);
            (!curve.is_empty()).then_some((dtype, curve))
        });
        let rates = |curve: &[crate::profile::CurvePoint]| {
            let mut points: Vec<(f64, f64)> = curve
                .iter()
                .map(|p| (p.bytes as f64, p.bytes_per_second.median / 1e6))
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points
        };
        let anchors = profile.anchors.iter().filter_map(|a| {
            let factor = a.factor().clamp(0.25, 4.0);
            let dtype = a.dtype.parse().ok()?;
            Some((dtype, a.elements as f64, f64::from(a.tokens), factor))
        });
        Measured {
            dispatch_us: profile.dispatch_us.map(|s| s.median),
            node_us,
            products,
            cold_from,
            values: values
                .into_iter()
                .map(|(op, points)| (op, Curve::rising(points)))
                .collect(),
            attention: attention.collect(),
            read: rates(&profile.read),
            copy: rates(&profile.copy),
            anchors: anchors.collect(),
            corrections: profile
                .corrections
                .iter()
                .map(|c| (c.pattern.clone(), c.factor))
                .collect(),
        }
    }

    /// What the nodes of a graph of such scale are multiplied by: rows at once, ascending, with the factor.
    fn factors(&self, scale: &GraphScale) -> Vec<(f64, f64)> {
        let own = self.anchors.iter().any(|a| a.0 == scale.dtype);
        let fitting = || self.anchors.iter().filter(|a| !own || a.0 == scale.dtype);
        let ascending = |mut all: Vec<f64>| {
            all.sort_by(f64::total_cmp);
            all.dedup();
            all
        };
        let sizes = ascending(fitting().map(|a| a.1).collect());
        let rows = ascending(fitting().map(|a| a.2).collect());
        let mean =
            |all: Vec<f64>| (all.iter().map(|f| f.ln()).sum::<f64>() / all.len() as f64).exp();
        let at = |tokens: f64| {
            let by_size: Vec<(f64, f64)> = sizes
                .iter()
                .filter_map(|&size| {
                    let like = fitting().filter(|a| a.1 == size && a.2 == tokens);
                    let like: Vec<f64> = like.map(|a| a.3).collect();
                    (!like.is_empty()).then(|| (size, mean(like)))
                })
                .collect();
            Some((tokens, between(&by_size, scale.elements)?))
        };
        rows.into_iter().filter_map(at).collect()
    }

    /// Bytes per microsecond of reading something of which `all` bytes are gone through.
    fn read_rate(&self, all: f64) -> Option<f64> {
        between(&self.read, all)
    }

    /// A product of `tokens` rows with a matrix.
    fn product(
        &self,
        dtype: DType,
        elements: f64,
        tokens: f64,
        work: &Work,
        scale: &GraphScale,
    ) -> Option<(f64, EstimateSource)> {
        let read = || Some(work.weight_bytes / self.read_rate(scale.weight_bytes)?);
        if let Some((_, rows)) = self.products.iter().find(|p| p.0 == dtype) {
            let points = rows.iter().map(|(t, c)| (*t, c.at(elements, self.node_us)));
            let curve = Curve::rising(points);
            let least = curve.first().map_or(0.0, |p| p.1);
            let mut us = curve.at(tokens, least);
            let cold = self.cold_from.get(dtype.name());
            if cold.is_some_and(|&cold| elements < cold) {
                us = us.max(read().unwrap_or(0.0));
            }
            return Some((us, EstimateSource::Measured));
        }
        // as fast as the type nearest in size at its best, and no faster than memory
        let size = |d: DType| d.block_bytes() as f64 / d.block_len() as f64;
        let distance = |d: DType| (size(d) / size(dtype)).ln().abs();
        let near = self.products.iter();
        let near = near.min_by(|a, b| distance(a.0).total_cmp(&distance(b.0)));
        let (_, rows) = near?;
        let per = rows.iter().filter(|(t, c)| *t > 0.0 && !c.is_empty());
        let per = per.map(|(t, c)| c.at(elements, self.node_us) / t);
        let best = per.fold(f64::INFINITY, f64::min);
        let us = (best * tokens).max(read().unwrap_or(0.0)).max(self.node_us);
        us.is_finite().then_some((us, EstimateSource::Roofline))
    }

    fn value(&self, node: &Node, bytes: f64) -> Option<(f64, EstimateSource)> {
        let (kind, exact) = match node.op {
            Op::RmsNorm { .. } => ("norm", true),
            Op::LayerNorm { .. } | Op::Softmax { .. } | Op::Reduce { .. } => ("norm", false),
            Op::GatedActivation(_) => ("gate", true),
            Op::Activation(_) | Op::SoftCap { .. } | Op::Unary(_) => ("gate", false),
            Op::Rope { .. } => ("rope", true),
            Op::Binary(_) => ("add", true),
            Op::KvAppend { .. } => ("append", true),
            _ => ("add", false),
        };
        if let Some(curve) = self.values.get(kind) {
            let source = match exact {
                true => EstimateSource::Measured,
                false => EstimateSource::Roofline,
            };
            return Some((curve.at(bytes, self.node_us), source));
        }
        let rate = between(&self.copy, bytes).or_else(|| self.read_rate(bytes))?;
        Some((self.node_us.max(bytes / rate), EstimateSource::Roofline))
    }

    fn attention(
        &self,
        dtype: DType,
        operations: f64,
        tokens: f64,
        work: &Work,
        scale: &GraphScale,
    ) -> Option<(f64, EstimateSource)> {
        let own = self.attention.iter().find(|a| a.0 == dtype);
        let source = match own {
            Some(_) => EstimateSource::Measured,
            None => EstimateSource::Roofline,
        };
        let (_, curve) = own.or(self.attention.first())?;
        let first = curve.first().map_or(0.0, |p| p.1);
        let us = self.node_us + curve.at(tokens, first) * operations / tokens;
        let read = self.read_rate(scale.weight_bytes + work.state_bytes);
        let read = read.map_or(0.0, |rate| work.state_bytes / rate);
        Some((us.max(read), source))
    }
}

/// The time of a node that alone takes `us` with `tokens` rows, by the factors of anchors. Between the rows of two
/// anchors it is interpolated such that more rows never take less time.
fn anchored(us: f64, tokens: f64, factors: &[(f64, f64)], alone: impl Fn(u32) -> f64) -> f64 {
    let Some(&(first, factor)) = factors.first() else {
        return us;
    };
    if tokens <= first {
        return us * factor;
    }
    let mut before = (alone(first as u32), alone(first as u32) * factor);
    for &(at, factor) in &factors[1..] {
        let own = alone(at as u32);
        let after = (own, (own * factor).max(before.1));
        if tokens <= at {
            let (low, high) = (before.0.max(f64::MIN_POSITIVE), after.0);
            let share = match high > low {
                true => ((us / low).ln() / (high / low).ln()).clamp(0.0, 1.0),
                false => 1.0,
            };
            let (from, to) = (before.1.max(f64::MIN_POSITIVE), after.1);
            return from * (to / from).powf(share);
        }
        before = after;
    }
    match before.0 > 0.0 {
        true => us * before.1 / before.0,
        false => us * factors[factors.len() - 1].1,
    }
}

/// Operations of an attention node; [`Work`] counts those over states.
fn attention_operations(graph: &Graph, node: &Node, symbols: &SymbolValues, work: &Work) -> f64 {
    match node.op {
        Op::Attention {
            kv: AttentionKv::Operands,
            ..
        } => {
            let elements = |i: usize| {
                let id = node.inputs.get(i)?;
                graph.ty(*id).shape.elements(symbols)
            };
            let rows = node
                .inputs
                .get(1)
                .and_then(|&k| graph.ty(k).shape.dims().first().copied());
            let rows = rows.map_or(0, |d| d.resolve(symbols));
            4.0 * elements(0).unwrap_or(0) as f64 * f64::from(rows)
        }
        _ => work.operations,
    }
}

impl DeviceCost {
    /// Of a device that is to have all that it runs: next to no time.
    pub fn for_nothing() -> DeviceCost {
        DeviceCost {
            rates: Rates {
                operations: (1e15, Vec::new()),
                bytes_per_us: 1e15,
                dispatch_us: 0.0,
            },
            rates_source: EstimateSource::Guess,
            measured: None,
        }
    }

    pub fn new(
        kind: DeviceKind,
        claimed: Option<&ClaimedRates>,
        profile: Option<&DeviceProfile>,
    ) -> DeviceCost {
        let stated = claimed.and_then(stated);
        DeviceCost {
            rates_source: match stated {
                Some(_) => EstimateSource::VendorHint,
                None => EstimateSource::Guess,
            },
            rates: stated.unwrap_or_else(|| guessed(kind)),
            measured: profile.map(Measured::new),
        }
    }

    /// The time of a node in one step, states kept in `state_dtype`.
    pub fn node(
        &self,
        graph: &Graph,
        node: &Node,
        symbols: &SymbolValues,
        state_dtype: DType,
        scale: &GraphScale,
    ) -> Estimate {
        let alone = |tokens: u32| {
            let mut symbols = *symbols;
            symbols.set(Symbol::TOKENS, tokens);
            self.node_alone(graph, node, &symbols, state_dtype, scale)
        };
        let tokens = symbols.get(Symbol::TOKENS);
        let estimate = alone(tokens);
        let Some(measured) = &self.measured else {
            return estimate;
        };
        let mut us = anchored(
            estimate.us,
            f64::from(tokens),
            &measured.factors(scale),
            |tokens| alone(tokens).us,
        );
        let learned = measured.corrections.get(&pattern(tokens, scale.dtype));
        us *= learned.copied().unwrap_or(1.0);
        match estimate.us > 0.0 {
            true => estimate * (us / estimate.us),
            false => estimate,
        }
    }

    /// As [`DeviceCost::node`], of a node by itself: neither scaled by anchors nor by what was learned.
    pub fn node_alone(
        &self,
        graph: &Graph,
        node: &Node,
        symbols: &SymbolValues,
        state_dtype: DType,
        scale: &GraphScale,
    ) -> Estimate {
        let work = Work::of(graph, node, symbols, state_dtype);
        if work == Work::default() {
            return Estimate::ZERO;
        }
        let measured = self.measured.as_ref();
        let found = measured
            .and_then(|m| self.measured_node(m, graph, node, symbols, state_dtype, scale, &work));
        if let Some((us, source)) = found {
            return Estimate::new(us, source);
        }
        let rates = &self.rates;
        let dtype = weight_dtype(graph, node);
        let own = rates.operations.1.iter().find(|(d, _)| Some(*d) == dtype);
        let per_us = own.map_or(rates.operations.0, |o| o.1);
        let us = (work.operations / per_us).max(work.bytes() / rates.bytes_per_us);
        Estimate::new(us, self.rates_source)
    }

    #[allow(clippy::too_many_arguments)] // the parts of one question
    fn measured_node(
        &self,
        measured: &Measured,
        graph: &Graph,
        node: &Node,
        symbols: &SymbolValues,
        state_dtype: DType,
        scale: &GraphScale,
        work: &Work,
    ) -> Option<(f64, EstimateSource)> {
        let tokens = f64::from(symbols.get(Symbol::TOKENS).max(1));
        if let Some(dtype) = weight_dtype(graph, node)
            && matches!(graph.value(node.inputs[1]).def, ValueDef::Weight(_))
        {
            let &[.., rows, columns] = graph.ty(node.inputs[1]).shape.dims() else {
                return None;
            };
            let elements = f64::from(rows.resolve(symbols)) * f64::from(columns.resolve(symbols));
            // rows that meet a matrix: output rows may be fewer than tokens, experts see each some
            let products = work.operations / (2.0 * elements.max(1.0));
            return measured.product(dtype, elements, products.max(1.0), work, scale);
        }
        if let Op::Attention { .. } = node.op {
            let operations = attention_operations(graph, node, symbols, work);
            return measured.attention(state_dtype, operations, tokens, work, scale);
        }
        measured.value(node, work.bytes())
    }

    /// Starting a run of nodes.
    pub fn dispatch(&self) -> Estimate {
        match self.measured.as_ref().and_then(|m| m.dispatch_us) {
            Some(us) => Estimate::new(us, EstimateSource::Measured),
            None => Estimate::new(self.rates.dispatch_us, self.rates_source),
        }
    }
}

/// What corrections are learned of: the phase and the type of most weights.
pub(crate) fn pattern_of(phase: Phase, dtype: DType) -> String {
    format!("{} {dtype}", phase.name())
}

/// As [`pattern_of`], of a step of `tokens`.
fn pattern(tokens: u32, dtype: DType) -> String {
    let phase = match tokens {
        0 | 1 => Phase::Decode,
        _ => Phase::Prefill,
    };
    pattern_of(phase, dtype)
}
