//! What a device said of itself, and what came of trying it.

use anynpu_hal::{Capabilities, ClaimedRates, FixedShapes, MemoryKind, StateSupport};
use anynpu_ir::DType;
use serde::{Deserialize, Serialize};

use crate::Outcome;

/// What a device said of itself: enough to plan for it where it is not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// Whether it runs the whole op set.
    pub baseline: bool,
    /// Plain types it computes in, preferred first.
    pub compute: Vec<String>,
    /// Types it reads weights in.
    pub weights: Vec<String>,
    /// How it keeps states: `none`, `slice_io`, `in_place_io` or `native`.
    pub states: String,
    /// Whether it takes steps of any size.
    pub dynamic_shapes: bool,
    /// Tokens of the steps it is compiled for; empty for any one number.
    #[serde(default)]
    pub tokens: Vec<u32>,
    /// Rows of the states it is compiled for; empty for any one number.
    #[serde(default)]
    pub capacities: Vec<u32>,
    /// Whether it works in the host's memory.
    pub host_memory: bool,
    /// Most bytes it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// The speed that its driver states, if any: what was not measured is priced by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<StatedRates>,
}

/// A speed that a driver states. Nobody measured it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatedRates {
    /// Operations per second of products with weights of each type, the usual type first.
    pub operations: Vec<(String, f64)>,
    /// Bytes per second read from memory.
    pub bytes_per_second: f64,
    /// Microseconds of starting a run of nodes.
    pub dispatch_us: f64,
    /// Watts while busy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_watts: Option<f64>,
}

impl StatedRates {
    /// Those of a device; none if a number of them is none.
    fn of(claimed: &ClaimedRates) -> Option<StatedRates> {
        let own = StatedRates {
            operations: claimed
                .operations
                .iter()
                .map(|(dtype, rate)| (dtype.name().to_owned(), *rate))
                .collect(),
            bytes_per_second: claimed.bytes_per_second,
            dispatch_us: claimed.dispatch_us,
            busy_watts: claimed.busy_watts,
        };
        let finite = own.numbers().all(f64::is_finite);
        finite.then_some(own)
    }

    fn numbers(&self) -> impl Iterator<Item = f64> + '_ {
        let others = [self.bytes_per_second, self.dispatch_us];
        let rates = self.operations.iter().map(|o| o.1);
        rates.chain(others).chain(self.busy_watts)
    }

    fn claimed(&self) -> ClaimedRates {
        let rate = |(name, rate): &(String, f64)| Some((name.parse().ok()?, *rate));
        let operations = self.operations.iter().filter_map(rate).collect();
        let mut claimed = ClaimedRates::new(operations, self.bytes_per_second, self.dispatch_us);
        claimed.busy_watts = self.busy_watts;
        claimed
    }
}

/// What came of trying one kind of node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpCheck {
    /// The op, with what devices may tell apart: `Activation silu`.
    pub op: String,
    /// The type of its weights, if it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

const STATES: [(&str, StateSupport); 4] = [
    ("none", StateSupport::None),
    ("slice_io", StateSupport::SliceIo),
    ("in_place_io", StateSupport::InPlaceIo),
    ("native", StateSupport::Native),
];

impl Claims {
    /// Those of `capabilities`.
    pub fn of(capabilities: &Capabilities) -> Claims {
        let names = |types: &[DType]| types.iter().map(|d| d.name().to_owned()).collect();
        let states = STATES.iter().find(|(_, s)| *s == capabilities.states);
        let fixed = capabilities.fixed_shapes.clone().unwrap_or_default();
        Claims {
            baseline: capabilities.features.baseline,
            compute: names(&capabilities.compute),
            weights: names(&capabilities.weights),
            states: states.map_or("none", |(name, _)| name).into(),
            dynamic_shapes: capabilities.features.dynamic_shapes,
            tokens: fixed.tokens,
            capacities: fixed.capacities,
            host_memory: capabilities.memory.contains(&MemoryKind::Host),
            memory_limit: capabilities.memory_limit,
            rates: capabilities
                .claimed_rates
                .as_ref()
                .and_then(StatedRates::of),
        }
    }

    /// The same as a device has them.
    pub(crate) fn capabilities(&self) -> Capabilities {
        let types =
            |names: &[String]| -> Vec<DType> { names.iter().flat_map(|n| n.parse()).collect() };
        let mut capabilities = Capabilities::new();
        capabilities.features.baseline = self.baseline;
        capabilities.features.dynamic_shapes = self.dynamic_shapes;
        capabilities.compute = types(&self.compute);
        capabilities.weights = types(&self.weights);
        let states = STATES.iter().find(|(name, _)| *name == self.states);
        capabilities.states = states.map_or(StateSupport::None, |(_, s)| *s);
        capabilities.memory = vec![match self.host_memory {
            true => MemoryKind::Host,
            false => MemoryKind::DeviceLocal,
        }];
        capabilities.memory_limit = self.memory_limit;
        capabilities.claimed_rates = self.rates.as_ref().map(StatedRates::claimed);
        capabilities.fixed_shapes = (!self.dynamic_shapes).then(|| FixedShapes {
            tokens: self.tokens.clone(),
            capacities: self.capacities.clone(),
        });
        capabilities
    }

    /// The first key that makes no sense, what stands there, and what would fit.
    pub(super) fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        let types = [("compute", &self.compute), ("weights", &self.weights)];
        for (key, names) in types {
            if let Some(name) = names.iter().find(|n| n.parse::<DType>().is_err()) {
                return Some((key, format!("'{name}'"), "element types such as f16"));
            }
        }
        if !STATES.iter().any(|(name, _)| *name == self.states) {
            let expected = "none, slice_io, in_place_io or native";
            return Some(("states", format!("'{}'", self.states), expected));
        }
        if let Some(rates) = &self.rates {
            let odd = |o: &&(String, f64)| o.0.parse::<DType>().is_err();
            if let Some((name, _)) = rates.operations.iter().find(odd) {
                return Some((
                    "rates.operations",
                    format!("'{name}'"),
                    "element types such as f16",
                ));
            }
            if let Some(odd) = rates.numbers().find(|n| !n.is_finite() || *n < 0.0) {
                return Some(("rates", odd.to_string(), "numbers from 0"));
            }
        }
        let sizes = [("tokens", &self.tokens), ("capacities", &self.capacities)];
        let odd = |sizes: &&Vec<u32>| {
            let ascending = sizes.windows(2).all(|w| w[0] < w[1]);
            !ascending || sizes.first() == Some(&0)
        };
        let (key, sizes) = sizes.into_iter().find(|(_, sizes)| odd(sizes))?;
        Some((key, format!("{sizes:?}"), "ascending numbers from 1"))
    }
}
