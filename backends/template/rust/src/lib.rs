// SPDX-License-Identifier: 0BSD
//! A backend for anynpu to start from. It runs RmsNorm, Linear and GatedActivation in F32 and claims nothing else.
//! docs/vendors.md leads from here to a certificate; the package anynpu-abi says what each member means.
#![allow(unsafe_code)] // the C interface

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicPtr, Ordering};

use anynpu_abi::*;

const NAME: &str = "template_rust";
type Symbols = [u32; ANYNPU_SYMBOLS as usize];

struct Tensor {
    dtype: anynpu_dtype,
    dims: Vec<anynpu_dim>,
    weight: Option<&'static [u8]>,
    data: Vec<f32>, // of all but weights, with room for the largest
}

impl Tensor {
    fn elements(&self, symbols: &Symbols) -> usize {
        let size = |d: &anynpu_dim| if d.is_symbol == 0 { d.size } else { symbols[d.size as usize] };
        self.dims.iter().map(|d| size(d) as usize).product()
    }

    fn at(&self, i: usize) -> f64 {
        match (self.weight, self.dtype) {
            (None, _) => self.data[i].into(),
            (Some(w), ANYNPU_DTYPE_F16) => half(&w[2 * i..]),
            (Some(w), ANYNPU_DTYPE_Q8_0) => half(&w[i / 32 * 34..]) * f64::from(w[i / 32 * 34 + 2 + i % 32] as i8),
            (Some(w), _) => f32::from_le_bytes([w[4 * i], w[4 * i + 1], w[4 * i + 2], w[4 * i + 3]]).into(),
        }
    }
}

fn half(b: &[u8]) -> f64 {
    let bits = u32::from(b[0]) | u32::from(b[1]) << 8;
    let finite = f32::from_bits((bits & 0x7fff) << 13) * 2f32.powi(112);
    let size = if finite < 65536.0 { finite } else { f32::from_bits(0x7f80_0000 | (bits & 1023) << 13) };
    f64::from(if bits >> 15 == 1 { -size } else { size })
}

// ---- The device: three kernels. Put yours here. `n` is the number of columns of the result. ----

fn rms_norm(x: &Tensor, weight: &Tensor, y: &mut [f32], n: usize, eps: f64) {
    for (r, y) in y.chunks_exact_mut(n).enumerate() {
        let squares: f64 = (0..n).map(|i| x.at(r * n + i) * x.at(r * n + i)).sum();
        let scale = 1.0 / (squares / n as f64 + eps).sqrt();
        y.iter_mut().enumerate().for_each(|(i, y)| *y = (x.at(r * n + i) * scale * weight.at(i)) as f32);
    }
}

fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, y: &mut [f32], n: usize) {
    let k = w.dims[1].size as usize;
    for (i, y) in y.iter_mut().enumerate() {
        let (r, c) = (i / n, i % n);
        let sum: f64 = (0..k).map(|i| x.at(r * k + i) * w.at(c * k + i)).sum();
        *y = (sum + bias.map_or(0.0, |b| b.at(c))) as f32;
    }
}

fn silu_gate(gate: &Tensor, up: &Tensor, y: &mut [f32]) {
    y.iter_mut().enumerate().for_each(|(i, y)| *y = (gate.at(i) / (1.0 + (-gate.at(i)).exp()) * up.at(i)) as f32);
}

// ---- Steps: what nodes become ----

/// A status or a reason, and what is to be said.
type Why = (u32, &'static str);

/// An op, its operands, its result and its eps.
type Step = (anynpu_op, Vec<u32>, u32, f64);

/// The step that a node becomes, or why it does not run here: the one answer of `support` and `compile`.
fn judge(values: &[anynpu_value], node: &anynpu_node) -> Result<Step, Why> {
    let (most, key) = match node.op {
        ANYNPU_OP_LINEAR => (3, None),
        ANYNPU_OP_RMS_NORM => (2, Some(ANYNPU_KEY_EPS)),
        ANYNPU_OP_GATED_ACTIVATION => (2, Some(ANYNPU_KEY_FUNCTION)),
        _ => return Err((ANYNPU_REASON_OP_UNKNOWN, "RmsNorm, Linear and GatedActivation run here")),
    };
    // SAFETY: the node is the host's
    let (inputs, outputs, attributes) = unsafe {
        let attributes = list(node.attributes, node.attribute_count, node.attribute_stride);
        (list(node.inputs, node.input_count, 4), list(node.outputs, node.output_count, 4), attributes)
    };
    if !(2..=most).contains(&inputs.len()) || outputs.len() != 1 || !attributes.iter().map(|a| a.key).eq(key) {
        return Err((ANYNPU_REASON_OP_VERSION, "operands or attributes that this device was not written for"));
    }
    // SAFETY: the key says which member the value has
    let (eps, function) = attributes.first().map_or((0.0, 0), |a| unsafe { (a.value.real, a.value.integer) });
    if key == Some(ANYNPU_KEY_FUNCTION) && function != ANYNPU_ACTIVATION_SILU {
        return Err((ANYNPU_REASON_OP_UNKNOWN, "of activations, SiLU runs here"));
    }
    for (i, v) in inputs.iter().map(|&number| &values[number as usize]).enumerate() {
        let weight = v.source == ANYNPU_VALUE_WEIGHT;
        return Err(match v.dtype {
            _ if v.rank == 0 => (ANYNPU_REASON_RANK, "an operand is a scalar"),
            _ if most == 3 && i == 1 && !weight => (ANYNPU_REASON_LAYOUT, "the matrix is not a weight"),
            ANYNPU_DTYPE_F32 => continue,
            ANYNPU_DTYPE_F16 | ANYNPU_DTYPE_Q8_0 if weight => continue,
            ANYNPU_DTYPE_Q4_0.. => (ANYNPU_REASON_QUANTIZATION, "of weights, F32, F16 and Q8_0 are read"),
            _ => (ANYNPU_REASON_DTYPE, "operands are F32, weights F16 and Q8_0 as well"),
        });
    }
    Ok((node.op, inputs, outputs[0], eps))
}

struct Program {
    tensors: Vec<Tensor>,
    steps: Vec<Step>,
    inputs: Vec<u32>,
    outputs: Vec<u32>,
    extents: Vec<anynpu_extent>,
}

fn run(p: &mut Program, symbols: &Symbols) {
    for (op, inputs, y, eps) in &p.steps {
        let result = &mut p.tensors[*y as usize];
        let (n, elements) = (result.dims[result.dims.len() - 1].size as usize, result.elements(symbols));
        let mut room = std::mem::take(&mut result.data);
        let (operand, result) = (|i: usize| &p.tensors[inputs[i] as usize], &mut room[..elements]);
        match *op {
            _ if elements == 0 => {}
            ANYNPU_OP_RMS_NORM => rms_norm(operand(0), operand(1), result, n, *eps),
            ANYNPU_OP_GATED_ACTIVATION => silu_gate(operand(0), operand(1), result),
            _ => linear(operand(0), operand(1), (inputs.len() > 2).then(|| operand(2)), result, n),
        }
        p.tensors[*y as usize].data = room;
    }
}

// ---- The interface ----

static HOST: AtomicPtr<anynpu_host> = AtomicPtr::new(std::ptr::null_mut());

const fn text(text: &str) -> anynpu_text {
    anynpu_text { data: text.as_ptr().cast(), length: text.len() }
}

/// Elements of an array of the host's; members that its elements have not are zero.
unsafe fn list<T: Copy>(first: *const T, count: usize, stride: usize) -> Vec<T> {
    // SAFETY: so many elements can be read and may be zeros; no more is copied than a `T` has
    let at = |i: usize| unsafe {
        let mut to = std::mem::zeroed::<T>();
        first.byte_add(i * stride).cast::<u8>().copy_to((&raw mut to).cast(), stride.min(size_of::<T>()));
        to
    };
    (0..count).map(at).collect()
}

/// A structure of the host's; members that it has not are zero.
unsafe fn read<T: Copy>(from: *const T) -> T {
    // SAFETY: each begins with its size
    unsafe { list(from, 1, *from.cast::<u32>() as usize)[0] }
}

/// Makes a function of the interface: no panic leaves it, and why it failed is written into the caller's message.
macro_rules! call {
    ($name:ident($($argument:ident: $type:ty),*) $body:block) => {
        unsafe extern "C" fn $name($($argument: $type,)* message: *mut anynpu_message) -> anynpu_status {
            // SAFETY: the host gives what the interface says
            let work = || -> Result<(), Why> { unsafe { $body; Ok(()) } };
            let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err((ANYNPU_VENDOR, "the plugin panicked")));
            let Err((status, why)) = done else { return ANYNPU_OK };
            // SAFETY: as above
            unsafe {
                (*message).length = why.len().min((*message).capacity);
                why.as_ptr().copy_to((*message).text.cast(), (*message).length);
            }
            status
        }
    };
}

call! { enumerate(_context: *mut c_void, tell: anynpu_tell_device, to: *mut c_void) {
    let weights = [ANYNPU_DTYPE_F32, ANYNPU_DTYPE_F16, ANYNPU_DTYPE_Q8_0];
    let info = anynpu_device_info {
        struct_size: size_of::<anynpu_device_info>() as u32, kind: ANYNPU_KIND_OTHER, op_set: ANYNPU_OP_SET,
        name: text(NAME), description: text("the template in Rust: three ops on the processor"),
        features: ANYNPU_FEATURE_DYNAMIC_SHAPES, compute: weights.as_ptr(), compute_count: 1,
        weights: weights.as_ptr(), weight_count: weights.len(), ..std::mem::zeroed()
    };
    tell.inspect(|tell| tell(to, &info));
} }

call! { open(_context: *mut c_void, request: *const anynpu_open_request, out: *mut *mut anynpu_device) {
    let r = read(request);
    if r.target.length > 0 { return Err((ANYNPU_UNSUPPORTED, "open: nothing is compiled ahead of time here")); }
    let name: Vec<u8> = list(r.name.data.cast(), r.name.length, 1);
    if name != NAME.as_bytes() { return Err((ANYNPU_UNAVAILABLE, "open: there is no device of this name")); }
    *out = (&raw const HOST).cast_mut().cast(); // nothing is kept of a device
} }

call! { support(_device: *mut anynpu_device, graph: *const anynpu_graph, tell: anynpu_tell_verdict, to: *mut c_void) {
    let (g, tell) = (read(graph), tell.ok_or((ANYNPU_INVALID_USE, "support: there is nobody to tell"))?);
    let values = list(g.values, g.value_count, g.value_stride);
    for (i, node) in list(g.nodes, g.node_count, g.node_stride).iter().enumerate() {
        let (answer, reason, detail) = judge(&values, node).map_or_else(|no| (0, no.0, no.1), |_| (1, 0, ""));
        tell(to, i, answer, reason, text(detail)); // ANYNPU_SUPPORT_NO or ANYNPU_SUPPORT_YES
    }
} }

call! { compile(_device: *mut anynpu_device, request: *const anynpu_compile_request, out: *mut *mut anynpu_module) {
    let (r, mut module) = (read(request), Vec::new());
    for (e, entry) in list(r.entries, r.entry_count, r.entry_stride).iter().enumerate() {
        let (g, mut tensors) = (read(entry.graph), Vec::new());
        let values = list(g.values, g.value_count, g.value_stride);
        let refuse = |i, (reason, why)| r.refuse.map(|refuse| refuse(r.context, e, i, reason, text(why)));
        let nodes = list(g.nodes, g.node_count, g.node_stride).into_iter().enumerate();
        let steps: Vec<_> = nodes.filter_map(|(i, n)| judge(&values, &n).map_err(|no| refuse(i, no)).ok()).collect();
        if steps.len() < g.node_count { return Err((ANYNPU_COMPILE_REJECTED, "compile: nodes that do not run here")); }
        let mut extents = list(entry.extents, entry.extent_count, size_of::<anynpu_extent>());
        extents.resize(ANYNPU_SYMBOLS as usize, anynpu_extent { exact: 1, limit: 0 });
        let limits: Symbols = std::array::from_fn(|i| extents[i].limit);
        let weights = list(g.weights, g.weight_count, g.weight_stride);
        for v in &values {
            let mut t = Tensor { dtype: v.dtype, dims: list(v.dims, v.rank as usize, 8), weight: None, data: vec![] };
            let n = t.elements(&limits);
            if v.source == ANYNPU_VALUE_WEIGHT {
                let w = &weights[v.index as usize];
                let bytes = match v.dtype { ANYNPU_DTYPE_Q8_0 => n / 32 * 34, ANYNPU_DTYPE_F16 => n * 2, _ => n * 4 };
                let good = !w.data.is_null() && w.dtype == v.dtype && w.length >= bytes as u64;
                if !good { return Err((ANYNPU_WEIGHT, "compile: a weight is not what the graph says")); }
                t.weight = Some(std::slice::from_raw_parts(w.data.cast(), bytes));
            } else {
                Vec::<f32>::new().try_reserve_exact(n).map_err(|_| (ANYNPU_OUT_OF_MEMORY, "compile: no memory"))?;
                t.data = vec![0.0; n]; // pages that are not written take no memory
            }
            tensors.push(t);
        }
        let (inputs, outputs) = (list(g.inputs, g.input_count, 4), list(g.outputs, g.output_count, 4));
        module.push(Program { tensors, steps, inputs, outputs, extents });
        let go_on = r.progress.is_none_or(|progress| progress(r.context, e as u64 + 1, r.entry_count as u64) != 0);
        if !go_on { return Err((ANYNPU_CANCELLED, "compile: the caller asked to stop")); }
    }
    *out = Box::into_raw(Box::new(module)).cast();
} }

call! { submit(_device: *mut anynpu_device, submission: *const anynpu_submission) {
    let s = read(submission);
    let module = s.module.cast::<Vec<Program>>().as_mut();
    let p = module.and_then(|m| m.get_mut(s.entry)).ok_or((ANYNPU_INVALID_USE, "submit: there is no such entry"))?;
    let given = list(s.symbols, s.symbol_count, 4);
    let symbols: Symbols = std::array::from_fn(|i| given.get(i).copied().unwrap_or(0));
    let fit = symbols.iter().zip(&p.extents).all(|(&n, e)| n == e.limit || e.exact == 0 && n < e.limit);
    if !fit { return Err((ANYNPU_INVALID_USE, "submit: a symbol is not what was compiled for")); }
    if (s.input_count, s.output_count, s.state_count) != (p.inputs.len(), p.outputs.len(), 0) {
        return Err((ANYNPU_INVALID_USE, "submit: another number of bindings than the entry has"));
    }
    let mut bound = list(s.inputs, s.input_count, s.binding_stride);
    bound.extend(list(s.outputs, s.output_count, s.binding_stride));
    let bytes = |p: &Program, t: u32| 4 * p.tensors[t as usize].elements(&symbols);
    let fits = |(&t, b): (&u32, &anynpu_binding)| !b.data.is_null() && b.bytes >= bytes(p, t) || bytes(p, t) == 0;
    let fit = p.inputs.iter().chain(&p.outputs).zip(&bound).all(fits);
    if !fit { return Err((ANYNPU_INVALID_USE, "submit: a binding is too short, or not the host's memory")); }
    for (i, b) in bound[..s.input_count].iter().enumerate() {
        b.data.cast::<u8>().copy_to(p.tensors[p.inputs[i] as usize].data.as_mut_ptr().cast(), bytes(p, p.inputs[i]));
    }
    run(p, &symbols);
    for (&t, b) in p.outputs.iter().zip(&bound[s.input_count..]) {
        b.data.cast::<u8>().copy_from(p.tensors[t as usize].data.as_ptr().cast(), bytes(p, t));
    }
    let host = &*HOST.load(Ordering::Acquire);
    host.signal.inspect(|signal| { signal(host.context, s.done, ANYNPU_OK, text("")); });
} }

unsafe extern "C" fn close(_: *mut anynpu_device) {}
unsafe extern "C" fn destroy_module(_: *mut anynpu_device, module: *mut anynpu_module) {
    // SAFETY: `compile` made it, and nothing of it runs any more
    let _ = catch_unwind(|| drop(unsafe { Box::from_raw(module.cast::<Vec<Program>>()) }));
}

unsafe extern "C" fn resident_bytes(_: *mut anynpu_device, module: *mut anynpu_module) -> u64 {
    // SAFETY: as above
    let programs = unsafe { &*module.cast::<Vec<Program>>() };
    catch_unwind(|| programs.iter().flat_map(|p| &p.tensors).map(|t| 4 * t.data.len() as u64).sum()).unwrap_or(0)
}

#[rustfmt::skip]
static BACKEND: anynpu_backend = anynpu_backend {
    struct_size: size_of::<anynpu_backend>() as u32, major: ANYNPU_ABI_MAJOR, minor: ANYNPU_ABI_MINOR,
    name: text(NAME), version: text("1.0.0"), enumerate: Some(enumerate), open: Some(open), close: Some(close),
    support: Some(support), compile: Some(compile), destroy_module: Some(destroy_module), submit: Some(submit),
    resident_bytes: Some(resident_bytes), // SAFETY: what is absent is zeros
    ..unsafe { std::mem::zeroed() }
};

/// The one symbol of a plugin.
#[unsafe(no_mangle)]
unsafe extern "C" fn anynpu_backend_query(major: u16, _: u16, host: *const anynpu_host) -> *const anynpu_backend {
    // SAFETY: the host's table lives until the process ends
    if host.is_null() || major < ANYNPU_ABI_MAJOR || unsafe { (*host).major } != ANYNPU_ABI_MAJOR {
        return std::ptr::null();
    }
    HOST.store(host.cast_mut(), Ordering::Release);
    &BACKEND
}
