//! A plugin whose answers are arbitrary, and a host that must live with them; and graphs that cross the C interface, with
//! numbers in them changed on the way.

#![no_main]

use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anynpu_hal::plugin::export::abi::*;
use anynpu_hal::plugin::{PluginDriver, PluginOptions, read_graph};
use anynpu_hal::{
    Bounds, BufferDesc, CompileOptions, Device, Driver, Entry, Extent, HalError, OpenOptions,
    Submission, Timeline, WeightSource, WeightView,
};
use anynpu_ir::{DType, Dim, Graph, Op, Symbol, SymbolValues, TensorType};
use libfuzzer_sys::fuzz_target;

/// What is left of the input; zeros when it is used up.
static INPUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// The host that loaded the plugin.
static HOST: Mutex<usize> = Mutex::new(0);

/// Runs that were started, to be signalled late.
static LATE: Mutex<Vec<anynpu_point>> = Mutex::new(Vec::new());

/// Says that all runs have ended, so that nothing is kept for them.
fn end_all() {
    let host = *HOST.lock().unwrap() as *const anynpu_host;
    for point in LATE.lock().unwrap().drain(..) {
        // SAFETY: a host's table lives as long as the process.
        unsafe { (*host).signal.unwrap()((*host).context, point, ANYNPU_OK, text()) };
    }
}

fn byte() -> u8 {
    INPUT.lock().unwrap().pop().unwrap_or(0)
}

fn word() -> u32 {
    u32::from_le_bytes([byte(), byte(), byte(), byte()])
}

/// Mostly small, sometimes anything.
fn number() -> u32 {
    match byte() {
        n @ 0..200 => u32::from(n) % 50,
        _ => word(),
    }
}

/// Names and messages, good and bad; they live as long as the process.
const TEXTS: [&[u8]; 6] = [
    b"npu",
    b"npu-2",
    b"",
    b"NPU 1",
    b"\xff\xfe",
    b"a message of some length",
];

fn text() -> anynpu_text {
    let chosen = TEXTS[byte() as usize % TEXTS.len()];
    match byte() {
        0 => anynpu_text {
            data: std::ptr::null(),
            length: word() as usize,
        },
        _ => anynpu_text {
            data: chosen.as_ptr().cast(),
            length: chosen.len(),
        },
    }
}

fn status(message: *mut anynpu_message) -> anynpu_status {
    let status = match byte() {
        0..180 => ANYNPU_OK,
        n => u32::from(n) % 16,
    };
    // SAFETY: the message is the host's, with room for as many bytes as it tells.
    unsafe {
        if let Some(message) = message.as_mut() {
            let room = std::slice::from_raw_parts_mut(message.text.cast::<u8>(), message.capacity);
            room.iter_mut()
                .take(byte() as usize)
                .for_each(|b| *b = byte());
            message.length = number() as usize;
            message.vendor_code = i64::from(word());
            message.bytes = word().into();
        }
    }
    status
}

/// Memory of a description, which may tell of more than it has of what is known.
#[repr(C)]
struct Longer {
    info: anynpu_device_info,
    more: [u64; 16],
}

unsafe extern "C" fn enumerate(
    _: *mut c_void,
    tell: anynpu_tell_device,
    to: *mut c_void,
    message: *mut anynpu_message,
) -> anynpu_status {
    let types: Vec<u32> = (0..300).map(|_| number()).collect();
    let rates = [anynpu_rate {
        dtype: number(),
        reserved: 0,
        operations_per_second: f64::from_bits(u64::from(word()) << 32),
    }; 4];
    let count = || number() as usize % 301;
    for _ in 0..byte() % 4 {
        let sizes = [176, 176, 176, 8, 100, 304];
        let longer = Longer {
            info: anynpu_device_info {
                struct_size: sizes[byte() as usize % sizes.len()],
                kind: number(),
                name: text(),
                description: text(),
                op_set: number(),
                states: number(),
                features: number().into(),
                compute: types.as_ptr(),
                compute_count: count(),
                weights: types.as_ptr(),
                weight_count: count(),
                memory_limit: word().into(),
                tokens: types.as_ptr(),
                token_count: count(),
                capacities: types.as_ptr(),
                capacity_count: count(),
                rates: rates.as_ptr(),
                rate_count: byte() as usize % 5,
                rate_stride: [16, 16, 16, 0, 8][byte() as usize % 5],
                bytes_per_second: f64::from_bits(word().into()),
                dispatch_us: f64::from(word()),
                busy_watts: f64::NAN,
            },
            more: [u64::MAX; 16],
        };
        // SAFETY: the function and what it is given are the host's.
        unsafe { tell.unwrap()(to, &raw const longer.info) }
    }
    status(message)
}

unsafe extern "C" fn open(
    _: *mut c_void,
    _: *const anynpu_open_request,
    device: *mut *mut c_void,
    message: *mut anynpu_message,
) -> anynpu_status {
    let status = status(message);
    if status == ANYNPU_OK {
        // SAFETY: the place is the host's.
        unsafe { device.write(std::ptr::dangling_mut::<u8>().cast()) }
    }
    status
}

unsafe extern "C" fn close(_: *mut c_void) {}

/// Reads the graph as a plugin in Rust would, as it is and with numbers changed, and says anything of it.
unsafe extern "C" fn support(
    _: *mut c_void,
    graph: *const anynpu_graph,
    tell: anynpu_tell_verdict,
    to: *mut c_void,
    message: *mut anynpu_message,
) -> anynpu_status {
    // SAFETY: the tables are the host's. What is changed are numbers, not how much there is.
    unsafe {
        read_graph(graph).expect("what the host writes can be read");
        let mut own = *graph;
        let mut values: Vec<anynpu_value> =
            std::slice::from_raw_parts(own.values, own.value_count).to_vec();
        let mut nodes: Vec<anynpu_node> =
            std::slice::from_raw_parts(own.nodes, own.node_count).to_vec();
        for _ in 0..byte() % 4 {
            if let Some(value) = values.get_mut(number() as usize) {
                match byte() % 4 {
                    0 => value.dtype = number(),
                    1 => value.source = number(),
                    2 => value.index = number(),
                    _ => value.rank = value.rank.min(number()),
                }
            }
            if let Some(node) = nodes.get_mut(number() as usize) {
                match byte() % 4 {
                    0 => node.op = number(),
                    1 => node.input_count = node.input_count.min(byte().into()),
                    2 => node.output_count = node.output_count.min(byte().into()),
                    _ => node.attribute_count = node.attribute_count.min(byte().into()),
                }
            }
        }
        own.value_count = own.value_count.min(usize::from(255 - byte() / 8));
        own.state_count = own.state_count.min(usize::from(255 - byte() / 8));
        own.values = values.as_ptr();
        own.nodes = nodes.as_ptr();
        drop(read_graph(&raw const own));
        for _ in 0..byte() % 20 {
            tell.unwrap()(to, number() as usize, number(), number(), text());
        }
    }
    status(message)
}

unsafe extern "C" fn compile(
    _: *mut c_void,
    request: *const anynpu_compile_request,
    module: *mut *mut c_void,
    message: *mut anynpu_message,
) -> anynpu_status {
    // SAFETY: the request and the place are the host's.
    unsafe {
        let request = &*request;
        for _ in 0..byte() % 4 {
            request.progress.unwrap()(request.context, word().into(), word().into());
            let (entry, node) = (number() as usize, number() as usize);
            request.refuse.unwrap()(request.context, entry, node, number(), text());
        }
        let status = status(message);
        if status == ANYNPU_OK {
            module.write(std::ptr::dangling_mut::<u8>().cast());
        }
        status
    }
}

unsafe extern "C" fn destroy_module(_: *mut c_void, _: *mut c_void) {}

unsafe extern "C" fn submit(
    _: *mut c_void,
    submission: *const anynpu_submission,
    message: *mut anynpu_message,
) -> anynpu_status {
    // SAFETY: the submission and the host's table are the host's.
    unsafe {
        let host = (*HOST.lock().unwrap() as *const anynpu_host)
            .as_ref()
            .unwrap();
        let done = (*submission).done;
        LATE.lock().unwrap().push(done);
        for _ in 0..byte() % 3 {
            let point = anynpu_point {
                id: done.id.wrapping_add(u64::from(byte() & 1)),
                generation: done.generation.wrapping_add(u64::from(byte() & 1)),
            };
            host.signal.unwrap()(host.context, point, number(), text());
        }
        host.log.unwrap()(host.context, number(), text());
    }
    status(message)
}

unsafe extern "C" fn compatibility(_: *mut c_void, tell: anynpu_tell_bytes, to: *mut c_void) {
    // SAFETY: the function and what it is given are the host's.
    unsafe { tell.unwrap()(to, TEXTS[0].as_ptr().cast(), byte() as usize % 4) }
}

unsafe extern "C" fn save(
    _: *mut c_void,
    _: *mut c_void,
    tell: anynpu_tell_bytes,
    to: *mut c_void,
    message: *mut anynpu_message,
) -> anynpu_status {
    // SAFETY: the function and what it is given are the host's.
    unsafe { tell.unwrap()(to, TEXTS[5].as_ptr().cast(), byte() as usize % 20) }
    status(message)
}

unsafe extern "C" fn check(
    _: *mut c_void,
    _: *const c_void,
    _: usize,
    message: *mut anynpu_message,
) -> anynpu_compatibility {
    status(message)
}

unsafe extern "C" fn load(
    device: *mut c_void,
    _: *const c_void,
    _: usize,
    request: *const anynpu_compile_request,
    module: *mut *mut c_void,
    message: *mut anynpu_message,
) -> anynpu_status {
    // SAFETY: as for `compile`.
    unsafe { compile(device, request, module, message) }
}

unsafe extern "C" fn counters(_: *mut c_void, told: *mut anynpu_counters) {
    // SAFETY: the structure is the host's.
    unsafe { (*told).nodes = word().into() }
}

unsafe extern "C" fn link(_: *mut c_void, _: anynpu_text, _: u32, link: *mut anynpu_link) {
    // SAFETY: the structure is the host's.
    unsafe { (*link).latency_us = f64::from_bits(u64::from(word()) << 32) }
}

/// A table, and what a later version would have behind it.
type Table = (anynpu_backend, [u64; 32]);

thread_local! {
    static TABLE: RefCell<Option<Box<Table>>> = const { RefCell::new(None) };
}

unsafe extern "C" fn query(_: u16, _: u16, host: *const anynpu_host) -> *const anynpu_backend {
    *HOST.lock().unwrap() = host as usize;
    let sizes = [232, 232, 232, 216, 224, 400, 0, 100];
    let majors = [1, 1, 1, 1, 1, 1, 1, 2];
    let backend = anynpu_backend {
        struct_size: sizes[byte() as usize % sizes.len()],
        major: majors[byte() as usize % majors.len()],
        minor: (byte() % 4).into(),
        name: text(),
        version: text(),
        context: std::ptr::null_mut(),
        enumerate: Some(enumerate),
        open: Some(open),
        close: Some(close),
        support: Some(support),
        compile: Some(compile),
        destroy_module: Some(destroy_module),
        submit: Some(submit),
        validate: Some(support),
        memory_need: None,
        resident_bytes: None,
        compatibility: Some(compatibility),
        save: Some(save),
        check: Some(check),
        load: Some(load),
        allocate: None,
        free: None,
        map: None,
        unmap: None,
        trim: None,
        give_up: None,
        shutdown: None,
        counters: Some(counters),
        link: Some(link),
    };
    TABLE.with_borrow_mut(|table| {
        let table = table.insert(Box::new((backend, [u64::MAX; 32])));
        &raw const table.0
    })
}

/// Every weight is so many zeros.
#[derive(Debug)]
struct Zeros(Graph);

impl WeightSource for Zeros {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let id = self
            .0
            .find_value(name)
            .expect("the graph names its weights");
        let ty = self.0.ty(id);
        let bytes = ty.bytes(&SymbolValues::default()).unwrap_or(0);
        Ok(WeightView {
            dtype: ty.dtype,
            bytes: vec![0; bytes.min(1 << 20)].into(),
        })
    }
}

/// The graph in the input, or a small one.
fn graph(input: &[u8]) -> Graph {
    let parsed = std::str::from_utf8(input).ok().map(Graph::parse);
    if let Some(Ok(graph)) = parsed {
        return graph;
    }
    let mut graph = Graph::new("g");
    let row = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(4)]);
    let x = graph.add_input("x", row).unwrap();
    let gain = graph
        .add_weight("gain", TensorType::new(DType::F32, [Dim::Fixed(4)]))
        .unwrap();
    let y = graph
        .add("norm", Op::RmsNorm { eps: 1e-5 }, &[x, gain])
        .unwrap();
    let z = graph.add("soft", Op::Softmax { axis: 1 }, &[y]).unwrap();
    graph.set_output(z).unwrap();
    graph
}

fn use_it(device: &dyn Device, graph: &Arc<Graph>) {
    let run = graph.whole();
    assert_eq!(device.support(&run).len(), graph.nodes().len());
    drop(device.validate(&run));
    device.compatibility();
    let mut bounds = Bounds::new();
    for symbol in 0..4 {
        bounds = bounds.with(Symbol(symbol), Extent::AtMost(3));
    }
    let entry = Entry {
        name: "e".into(),
        graph: graph.clone(),
        nodes: 0..graph.nodes().len() as u32,
        bounds,
    };
    let options = CompileOptions::new(DType::F32);
    let weights = Arc::new(Zeros((**graph).clone()));
    let compiled = device.compile(&[entry], &options, weights.clone(), &mut |_, _| byte() > 10);
    let Ok(module) = compiled else { return };
    if let Ok(Some(mut blob)) = module.blob() {
        if byte() > 200 {
            let at = number() as usize % blob.len();
            blob[at] ^= byte();
        }
        device.check_blob(&blob);
        drop(device.load(&blob, weights));
    }
    let info = &module.entries()[0];
    let symbols = SymbolValues::step(2, 1, 1, 3);
    let allocate = |bytes: usize| {
        device
            .allocate(&BufferDesc::host("b", bytes.min(1 << 16)))
            .unwrap()
    };
    let bind = |ports: &[anynpu_hal::Port]| -> Vec<_> {
        ports.iter().map(|p| allocate(p.max_bytes)).collect()
    };
    let (inputs, outputs) = (bind(&info.inputs), bind(&info.outputs));
    let states: Vec<_> = info.states.iter().map(|_| allocate(1 << 12)).collect();
    let timeline = Timeline::new("fuzz");
    for n in 1..=2 {
        let signal = timeline.point(n);
        let started = device.queue().submit(&Submission {
            module: &module,
            entry: 0,
            inputs: &inputs,
            outputs: &outputs,
            states: &states,
            sequences: &[],
            symbols,
            wait: &[],
            signal: &signal,
        });
        if started.is_ok() {
            drop(signal.wait(Duration::ZERO));
        }
    }
    device.queue().counters();
    device.trim();
    device.give_up();
    end_all();
}

fuzz_target!(|bytes: &[u8]| {
    let (answers, text) = bytes.split_at(bytes.len().min(512));
    *INPUT.lock().unwrap() = answers.iter().rev().copied().collect();
    let mut options = PluginOptions::default();
    options.guarded = byte() & 1 == 1;
    // SAFETY: the functions above keep the rules on pointers.
    let loaded = unsafe { PluginDriver::from_query("fuzzed", query, options) };
    let Ok(driver) = loaded else { return };
    let Ok(found) = driver.enumerate() else {
        return;
    };
    let graph = Arc::new(graph(text));
    for exposed in &found {
        if let Ok(device) = driver.open(exposed, &OpenOptions::default()) {
            use_it(&*device, &graph);
        }
    }
});
