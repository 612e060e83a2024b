//! Cases of single ops: worked out by hand, and made for every op, type, rank and edge.

mod classes;
mod elementwise;
mod moves;
mod products;
mod rows;
mod search;
mod symbolic;

use std::sync::Arc;

use anynpu_cpu::reference::{NoStates, Tensor, TensorRef, evaluate_node};
use anynpu_hal::HalError;
use anynpu_ir::{DType, Graph, Op, SymbolValues};

use super::bounds::{Bound, Class, compute, holds};
use super::job::{Job, Named, claimed_but, exact, obstacle, sizes};
use super::outcome::{Check, Stop, refused};
use super::suite::{Context, SuiteError, SuiteOptions, TestCase};
use super::values::Values;
use crate::{Case, Expectation, Tolerance, compare, type_of};

pub(crate) use classes::{class_of, scale_of};
use classes::{dtypes, slug, usual_weights};

/// What an op on some operands must give.
#[derive(Clone, Debug)]
enum Wanted {
    /// What the reference gives.
    Reference,
    /// These, worked out by hand.
    Values(Vec<Tensor>, Tolerance),
    /// An error.
    Error,
}

/// An op on operands.
#[derive(Clone, Debug)]
struct OpCase {
    id: String,
    op: Op,
    inputs: Vec<Tensor>,
    wanted: Wanted,
}

/// Cases being made.
pub(super) struct Maker<'a> {
    options: &'a SuiteOptions,
    made: Vec<OpCase>,
}

impl Maker<'_> {
    /// Adds the case `op/SLUG/TYPES/VARIANT`, what is expected being what the reference gives.
    fn add(&mut self, op: Op, variant: &str, inputs: Vec<Tensor>) {
        let id = format!("op/{}/{}/{variant}", slug(&op), dtypes(&op, &inputs));
        self.made.push(OpCase {
            id,
            op,
            inputs,
            wanted: Wanted::Reference,
        });
    }

    /// Numbers for the case called so.
    fn values(&self, name: &str) -> Values {
        Values::new(self.options.seed, name)
    }

    /// Whether only a part is made.
    fn quick(&self) -> bool {
        self.options.quick
    }

    /// The case and the same with operand `which`, of type F32, holding what is special.
    fn with_edges(&mut self, op: Op, variant: &str, inputs: Vec<Tensor>, which: usize) {
        for (name, change) in EDGES {
            let Ok(mut values) = inputs[which].to_f32() else {
                continue;
            };
            values
                .iter_mut()
                .enumerate()
                .for_each(|(i, x)| *x = change(i, *x));
            let mut edged = inputs.clone();
            let shape = inputs[which].shape().to_vec();
            edged[which] = super::values::float_tensor(inputs[which].dtype(), &shape, values);
            self.add(op.clone(), &format!("{variant}_{name}"), edged);
        }
        self.add(op, variant, inputs);
    }
}

type Change = fn(usize, f32) -> f32;

/// What operands of floats are made to hold.
const EDGES: &[(&str, Change)] = &[
    ("edge_nan", |i, x| if i == 1 { f32::NAN } else { x }),
    ("edge_inf", |i, x| if i == 1 { f32::INFINITY } else { x }),
    (
        "edge_minus_inf",
        |i, x| if i == 1 { f32::NEG_INFINITY } else { x },
    ),
    ("edge_denormal", |_, x| x * 1e-40),
    ("edge_zero", |i, _| if i % 2 == 0 { 0.0 } else { -0.0 }),
    ("edge_large", |_, x| x * 1.5e18),
];

/// All cases of single ops.
pub(super) fn cases(options: &SuiteOptions) -> Result<Vec<TestCase>, SuiteError> {
    let mut maker = Maker {
        options,
        made: by_hand(),
    };
    products::add(&mut maker);
    elementwise::add(&mut maker);
    rows::add(&mut maker);
    moves::add(&mut maker);
    search::add(&mut maker);
    let made = maker.made;
    for case in &made {
        // a fault of the suite shows when it is built, not as a device's failure
        if let (Wanted::Reference, Err(e)) = (&case.wanted, case.reference()) {
            return Err(SuiteError::Case {
                id: case.id.clone(),
                why: e,
            });
        }
    }
    let cases = made.into_iter().map(OpCase::into_test);
    let mut cases: Vec<TestCase> = cases.collect();
    cases.extend(symbolic::cases());
    Ok(cases)
}

/// The cases that were worked out by hand.
fn by_hand() -> Vec<OpCase> {
    let convert = |case: Case| {
        let [node] = case.graph.nodes() else {
            return None;
        };
        let op = node.op.clone();
        let slug = slug(&op);
        let prefixes = [
            format!("{slug}_"),
            "unary_".into(),
            "binary_".into(),
            "activation_".into(),
            "gated_activation_".into(),
        ];
        let short = prefixes
            .iter()
            .find_map(|p| case.name.strip_prefix(p.as_str()));
        let variant = short.unwrap_or(&case.name);
        Some(OpCase {
            id: format!("op/{slug}/{}/{variant}", dtypes(&op, &case.inputs)),
            op,
            inputs: case.inputs,
            wanted: match case.expected {
                Expectation::Values(values, tolerance) => Wanted::Values(values, tolerance),
                Expectation::Error(_) => Wanted::Error,
            },
        })
    };
    crate::cases::all()
        .into_iter()
        .filter_map(convert)
        .collect()
}

impl OpCase {
    fn into_test(self) -> TestCase {
        let (id, op) = (self.id.clone(), self.op.name());
        TestCase::new(id, Some(op), move |context| self.check(context))
    }

    fn reference(&self) -> Result<Vec<Tensor>, String> {
        self.reference_on(&self.inputs)
    }

    fn reference_on(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let views: Vec<TensorRef<'_>> = inputs.iter().map(Tensor::view).collect();
        let symbols = SymbolValues::default();
        evaluate_node("node", &self.op, &views, &mut NoStates, &symbols).map_err(|e| e.to_string())
    }

    /// Runs the op in each form that the device claims; one that it does not claim in any is not claimed.
    fn check(&self, context: &Context) -> Check {
        let computed = compute(context.capabilities());
        let expected = match &self.wanted {
            Wanted::Reference => {
                let given = self.reference();
                given.map_err(|e| Stop::failed(format!("the reference fails: {e}"), "values"))?
            }
            Wanted::Values(values, _) => values.clone(),
            Wanted::Error => Vec::new(),
        };
        let numbers = self.inputs.iter().chain(&expected);
        let exactly = |t: &Tensor| holds(computed, t);
        let by_hand = !matches!(self.wanted, Wanted::Reference);
        let in_range = |t: &Tensor| within(computed, t);
        if (by_hand && !numbers.clone().all(exactly)) || !numbers.clone().all(in_range) {
            return Err(Stop::Skipped(format!(
                "{computed} does not hold its numbers"
            )));
        }
        let mut refusal = None;
        let mut claimed = false;
        for form in Form::of(&self.op, self.inputs.len()) {
            let job = self.job(&form, context)?;
            if let Some(why) =
                obstacle(context.device(), &job.run()).map_err(|e| e.at(form.name))?
            {
                refusal.get_or_insert(why);
                continue;
            }
            claimed = true;
            self.check_form(&job, context, computed, &expected)
                .map_err(|e| e.at(form.name))?;
        }
        match (claimed, refusal) {
            (false, Some(why)) => Err(Stop::NotClaimed(why)),
            _ => Ok(()),
        }
    }

    fn check_form(
        &self,
        job: &Job,
        context: &Context,
        computed: DType,
        expected: &[Tensor],
    ) -> Check {
        if matches!(self.wanted, Wanted::Error) {
            return self.check_error(job, context);
        }
        let found = job.run_on(context.bench())?.outputs;
        let class = class_of(&self.op, &self.inputs);
        let compared = self.compare(computed, class, &found, expected);
        // a device that takes numbers too small for its type as 0 is right too
        let flushed: Vec<Tensor> = self.inputs.iter().map(|t| flushed(computed, t)).collect();
        if compared.is_err()
            && flushed != self.inputs
            && let Ok(expected) = self.reference_on(&flushed)
        {
            return self
                .compare(computed, class, &found, &expected)
                .or(compared);
        }
        compared
    }

    fn compare(
        &self,
        computed: DType,
        class: Class,
        found: &[Tensor],
        expected: &[Tensor],
    ) -> Check {
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            if let Wanted::Values(_, tolerance) = &self.wanted
                && computed == DType::F32
                && compare(found, expected, *tolerance).is_ok()
            {
                continue;
            }
            let bound = Bound {
                class,
                computed,
                scale: scale_of(&self.op, &self.inputs, expected),
            };
            bound.check(&format!("output {i}"), found, expected)?;
        }
        Ok(())
    }

    /// A value that no result can be given for is an error, when compiling if the value is known then.
    fn check_error(&self, job: &Job, context: &Context) -> Check {
        let module = match job.compile(context.device()) {
            Ok(module) => module,
            Err(e @ (HalError::DeviceLost { .. } | HalError::Timeout { .. })) => {
                return Err(claimed_but(&e, "compile"));
            }
            Err(_) => return Ok(()),
        };
        let info = job.described(&*module, 0)?;
        let binding = job.bind(context.device(), &info)?;
        refused(
            binding.run(context.bench(), &module, 0),
            "a value out of range",
        )?;
        binding.check_bounds()
    }

    fn job(&self, form: &Form, context: &Context) -> Result<Job, Stop> {
        let fault = |e: String| Stop::failed(format!("no graph: {e}"), "a graph");
        let mut graph = Graph::new("case");
        let (mut operands, mut bound, mut named) = (Vec::new(), Vec::new(), Named::default());
        for (i, tensor) in self.inputs.iter().enumerate() {
            let (name, ty) = (format!("operand{i}"), type_of(tensor));
            let id = match (form.weights.contains(&i), form.inline) {
                (false, _) => {
                    bound.push(tensor.clone());
                    graph.add_input(name, ty)
                }
                (true, true) => graph.add_constant(name, ty, tensor.to_bytes()),
                (true, false) => {
                    named.0.insert(name.clone(), tensor.clone());
                    graph.add_weight(name, ty)
                }
            };
            operands.push(id.map_err(|e| fault(e.to_string()))?);
        }
        let results = graph.add_node("node", self.op.clone(), &operands);
        for id in results.map_err(|e| fault(e.to_string()))? {
            graph.set_output(id).map_err(|e| fault(e.to_string()))?;
        }
        let symbols = sizes(context.capabilities(), 0, 0, 0, 0);
        let mut job = Job::whole(Arc::new(graph), &bound, Arc::new(named), symbols)
            .map_err(|e| fault(e.to_string()))?;
        job.bounds = exact(&symbols);
        Ok(job)
    }
}

/// `tensor` with 0 for what is below the least normal number of the type computed in. NaN stays out of it, as it
/// equals nothing.
fn flushed(computed: DType, tensor: &Tensor) -> Tensor {
    let least = match computed {
        DType::F16 => (-14f32).exp2(),
        _ => f32::MIN_POSITIVE,
    };
    match tensor.to_f32() {
        Ok(values) if tensor.dtype().is_float() => {
            let flush = |x: &f32| {
                if x.abs() < least {
                    0.0 * x.signum()
                } else {
                    *x
                }
            };
            let values = values.iter().map(flush).collect();
            super::values::float_tensor(tensor.dtype(), tensor.shape(), values)
        }
        _ => tensor.clone(),
    }
}

/// Whether a narrower type has room for every finite element: beyond it a device gives infinities.
fn within(computed: DType, tensor: &Tensor) -> bool {
    let narrow = computed == DType::F16 && tensor.dtype() == DType::F32;
    !narrow || super::bounds::magnitude(tensor) <= 65504.0
}

/// How operands are given: as operands or as weights.
struct Form {
    name: &'static str,
    weights: &'static [usize],
    inline: bool,
}

impl Form {
    fn of(op: &Op, operands: usize) -> Vec<Form> {
        let form = |name, weights, inline| Form {
            name,
            weights,
            inline,
        };
        let usual = usual_weights(op);
        let usual = &usual[..usual.iter().filter(|&&i| i < operands).count()];
        let mut forms = vec![form("as operands", &[][..], false)];
        if !usual.is_empty() {
            forms.push(form("as weights", usual, false));
            forms.push(form("as constants", usual, true));
        }
        forms
    }
}

/// Whether numbers of the class can be held to a bound relative to their operands' magnitude.
pub(crate) const fn sums(class: Class) -> bool {
    matches!(class, Class::Sum | Class::Blocks)
}
