//! Whose memory runs read and write: the host's in place, the device's own, hardware buffers.

use std::sync::Arc;
use std::time::Duration;

use anynpu_hal::{
    Bounds, Buffer, BufferDesc, CompileOptions, Driver, Entry, Extent, ExternalHandle, HalError,
    HostBuffer, MemoryKind, Module, OpenOptions, Scope, StateSupport, Submission, Support,
    Timeline,
};
use anynpu_ir::{DType, Dim, Graph, Op, Symbol, SymbolValues, TensorType};
use anynpu_nnapi::NnapiDevice;
use anynpu_nnapi::exec::{NnapiModule, SharedMemory};
use anynpu_nnapi::lower::{Numbers, StateForm};
use anynpu_nnapi::sys;
use anynpu_nnapi_double::{Device, Fault, Settings};
use anynpu_runtime::{KvType, SessionOptions};
use anynpu_tests::{adopted, fill, maps_alone, numbers_of};

use crate::models::{error, load, logits, runtime};
use crate::{LEVELS, NoWeights, Placed, architecture, unary};

const SOON: Duration = Duration::from_secs(30);

fn opened(placed: &Placed, states: StateForm) -> Arc<dyn anynpu_hal::Device> {
    let mut driver = placed.driver();
    driver.states = Some(states);
    let exposed = driver.enumerate().unwrap().remove(0);
    driver.open(&exposed, &OpenOptions::default()).unwrap()
}

/// A graph that appends rows of four numbers to a state.
fn appending() -> Arc<Graph> {
    let mut graph = Graph::new("g");
    let rows = |of: Dim| TensorType::new(DType::F32, [of, Dim::Fixed(1), Dim::Fixed(4)]);
    let state = graph.add_state("state", rows(Dim::CAPACITY), 0).unwrap();
    let new = graph.add_input("new", rows(Dim::TOKENS)).unwrap();
    let at = Dim::CACHED;
    graph
        .add_node("append", Op::KvAppend { state, at }, &[new])
        .unwrap();
    Arc::new(graph)
}

/// `appending`, compiled for steps of one and of two tokens over six rows.
fn compiled(device: &dyn anynpu_hal::Device) -> Arc<dyn Module> {
    let graph = appending();
    let entries = [1, 2].map(|tokens| Entry {
        name: format!("of {tokens}"),
        graph: graph.clone(),
        nodes: 0..1,
        bounds: Bounds::new()
            .with(Symbol::TOKENS, Extent::Exact(tokens))
            .with(Symbol::CACHED, Extent::AtMost(6))
            .with(Symbol::CAPACITY, Extent::Exact(6)),
    });
    let options = CompileOptions::new(DType::F32);
    let compiled = device.compile(&entries, &options, Arc::new(NoWeights), &mut |_, _| true);
    compiled.unwrap()
}

/// Appends `rows` to `state` behind `cached` rows.
fn append(
    device: &dyn anynpu_hal::Device,
    module: &Arc<dyn Module>,
    state: &Arc<dyn Buffer>,
    cached: u32,
    rows: &[f32],
) -> Result<(), HalError> {
    let tokens = rows.len() as u32 / 4;
    let new = device.allocate(&BufferDesc::host("new", 4 * rows.len()))?;
    fill(&*new, rows);
    let signal = Timeline::new("t").point(1);
    device.queue().submit(&Submission {
        module,
        entry: tokens as usize - 1,
        inputs: &[new],
        outputs: &[],
        states: std::slice::from_ref(state),
        sequences: &[],
        symbols: SymbolValues::step(tokens, cached, 1, 6),
        wait: &[],
        signal: &signal,
    })?;
    signal.wait(SOON)
}

fn local(name: &str, bytes: usize) -> BufferDesc {
    BufferDesc {
        kind: MemoryKind::DeviceLocal,
        ..BufferDesc::host(name, bytes)
    }
}

#[test]
fn what_a_step_copies_does_not_grow_with_the_rows_before_it() {
    copies_one_row(&Placed::accelerated(LEVELS[0]));
}

/// What the host copies in a step, with states in its memory.
pub fn copies_one_row(placed: &Placed) {
    let device = opened(placed, StateForm::Host);
    let module = compiled(&*device);
    let own = |m: &Arc<dyn Module>| {
        let own = m.as_any().downcast_ref::<NnapiModule>().unwrap();
        own.copied_bytes()
    };
    let state = device.allocate(&BufferDesc::host("state", 96)).unwrap();
    for cached in 0..5u32 {
        let before = own(&module);
        append(&*device, &module, &state, cached, &[cached as f32; 4]).unwrap();
        // the new row, out of the run's own memory
        assert_eq!(own(&module) - before, 16, "{cached}");
    }
    let rows = numbers_of(&*state, 20);
    assert_eq!(rows[16..], [4.0; 4]);
    // memory of somebody else is copied: the rows before, the new one in, and out
    let plain = anynpu_hal::HostBuffer::new(BufferDesc::host("plain", 96)).unwrap();
    let plain: Arc<dyn Buffer> = Arc::new(plain);
    let before = own(&module);
    append(&*device, &module, &plain, 3, &[7.0; 4]).unwrap();
    assert_eq!(numbers_of(&*plain, 16)[12..], [7.0; 4]);
    assert_eq!(own(&module) - before, 16);
}

#[test]
fn a_device_keeps_states_in_memory_of_its_own_and_shows_them_on_demand() {
    for level in [LEVELS[0], LEVELS[1], 30] {
        states_of_its_own(&Placed::accelerated(level));
    }
}

/// States in memory of the device of `placed`, which the host reads and writes between runs.
pub fn states_of_its_own(placed: &Placed) {
    {
        let device = opened(placed, StateForm::Device);
        assert_eq!(device.capabilities().states, StateSupport::Native);
        let module = compiled(&*device);
        let state = device.allocate(&local("state", 96)).unwrap();
        fill(&*state, &[9.0; 24]);
        append(&*device, &module, &state, 0, &[1.0; 4]).unwrap();
        append(&*device, &module, &state, 1, &[2.0; 8]).unwrap();
        append(&*device, &module, &state, 3, &[3.0; 4]).unwrap();
        let own = module.as_any().downcast_ref::<NnapiModule>().unwrap();
        assert_eq!((own.copied_bytes(), own.host_states()), (0, None));
        let expected = [[1.0; 4], [2.0; 4], [2.0; 4], [3.0; 4], [9.0; 4], [9.0; 4]];
        assert_eq!(numbers_of(&*state, 24), expected.concat());
        // what the host writes is what the next run sees
        fill(&*state, &[5.0; 4]);
        append(&*device, &module, &state, 4, &[4.0; 4]).unwrap();
        assert_eq!(numbers_of(&*state, 20)[..4], [5.0; 4]);
        assert_eq!(numbers_of(&*state, 20)[12..], [[3.0; 4], [4.0; 4]].concat());
        // a step that is run again writes the same rows
        append(&*device, &module, &state, 4, &[6.0; 4]).unwrap();
        assert_eq!(numbers_of(&*state, 20)[16..], [6.0; 4]);
        // in memory of the host, by a model that is made for the device's
        let host = device.allocate(&BufferDesc::host("host", 96)).unwrap();
        append(&*device, &module, &host, 2, &[8.0; 8]).unwrap();
        assert_eq!(numbers_of(&*host, 24)[8..16], [8.0; 8]);
        assert_eq!(numbers_of(&*host, 24)[16..], [0.0; 8]);
    }
}

#[test]
fn models_with_states_in_the_devices_memory_give_the_logits_of_the_cpu() {
    for level in [LEVELS[0], LEVELS[1]] {
        models_with_own_states(&Placed::accelerated(level));
    }
}

/// Models whose states are in memory of the device of `placed`, held to the logits of the CPU.
pub fn models_with_own_states(placed: &Placed) {
    let tokens: Vec<u32> = (0..40).map(|i| (3 * i + 1) % 64).collect();
    for (numbers, kv, bound) in [
        (Numbers::F32, KvType::F32, 2e-5),
        // states of another type than the device's are copied
        (Numbers::F32, KvType::F16, 2e-3),
        (Numbers::F16, KvType::F16, 1e-2),
    ] {
        let runtime = runtime(placed, |d| {
            (d.states, d.numbers) = (Some(StateForm::Device), Some(numbers));
        });
        for name in ["llama", "gemma2"] {
            let open = architecture(name);
            let alone = load(&runtime, &open, false, kv);
            let there = load(&runtime, &open, true, kv);
            let e = error(&logits(&there, &tokens), &logits(&alone, &tokens));
            assert!(e < bound, "{name} {numbers} {kv:?}: {e}");
        }
    }
}

#[test]
fn sessions_take_turns_and_go_with_their_memory() {
    sessions_in_turn(&Placed::accelerated(LEVELS[0]));
}

/// Sessions whose states are in memory of the device of `placed`.
pub fn sessions_in_turn(placed: &Placed) {
    let runtime = runtime(placed, |d| d.states = Some(StateForm::Device));
    let model = load(&runtime, &architecture("llama"), true, KvType::F32);
    let tokens = [3, 1, 4, 1, 5];
    let first = logits(&model, &tokens);
    for _ in 0..3 {
        let mut sessions: Vec<_> = (0..3)
            .map(|_| model.session(SessionOptions::new()).unwrap())
            .collect();
        for (i, token) in tokens.iter().enumerate() {
            for session in &mut sessions {
                session.decode(*token).unwrap();
                let row = session.logits().unwrap().to_vec();
                assert_eq!(row, first[i * row.len()..][..row.len()], "{i}");
            }
        }
    }
    assert_eq!(logits(&model, &tokens), first);
}

#[test]
fn a_device_that_gives_no_memory_has_states_in_the_hosts_and_says_why() {
    let told = |settings: &Settings, without: &[&str]| {
        let placed = Placed::without(settings, without);
        let device = opened(&placed, StateForm::Device);
        assert_eq!(device.capabilities().states, StateSupport::InPlaceIo);
        let said = device.support(&appending().whole());
        let Support::Emulated(reason) = &said[0] else {
            panic!("{said:?}");
        };
        let own = device.as_any().downcast_ref::<NnapiDevice>().unwrap();
        assert_eq!(own.host_states(), Some(reason));
        let module = compiled(&*device);
        let state = device.allocate(&BufferDesc::host("state", 96)).unwrap();
        append(&*device, &module, &state, 1, &[2.0; 4]).unwrap();
        assert_eq!(numbers_of(&*state, 8), [[0.0; 4], [2.0; 4]].concat());
        (reason.code.name(), reason.detail.clone())
    };
    let (code, detail) = told(&Settings::new(29).with_accelerator(), &[]);
    assert_eq!(code, "op_version");
    assert!(
        detail.contains("needs feature level 4 (30), the runtime has 3 (29)"),
        "{detail}"
    );
    let old = Settings::new(LEVELS[0]).with(Device::accelerator("npu", 29));
    let (_, detail) = told(&old, &[]);
    assert!(detail.contains("the device has 3 (29)"), "{detail}");
    let new = Settings::new(LEVELS[0]).with_accelerator();
    let (_, detail) = told(&new, &["ANeuralNetworksMemory_createFromDesc"]);
    assert!(
        detail.contains("no function 'memory_create_from_desc'"),
        "{detail}"
    );
    for (result, code) in [
        (sys::OP_FAILED, "vendor_rejected"),
        (sys::RESOURCE_EXHAUSTED_PERSISTENT, "memory_limit"),
        (sys::OUT_OF_MEMORY, "memory_limit"),
        (sys::DEAD_OBJECT, "device_lost"),
    ] {
        let fault = Fault::Fails("createFromDesc".into(), result);
        let device = Device::accelerator("npu", LEVELS[0]).failing(fault);
        let (found, detail) = told(&Settings::new(LEVELS[0]).with(device), &[]);
        assert_eq!(found, code, "{detail}");
        assert!(detail.contains("memory_create_from_desc"), "{detail}");
    }
}

#[test]
fn a_copy_that_fails_reaches_as_far_as_its_code_says() {
    for (result, scope) in [
        (sys::DEAD_OBJECT, Scope::Device),
        (sys::RESOURCE_EXHAUSTED_TRANSIENT, Scope::Plan),
        (sys::MISSED_DEADLINE_TRANSIENT, Scope::Device),
    ] {
        let fault = Fault::Fails("copy".into(), result);
        let device = Device::accelerator("npu", LEVELS[0]).failing(fault);
        let placed = Placed::new(&Settings::new(LEVELS[0]).with(device));
        let device = opened(&placed, StateForm::Device);
        let module = compiled(&*device);
        let state = device.allocate(&local("state", 96)).unwrap();
        let e = append(&*device, &module, &state, 0, &[1.0; 4]).unwrap_err();
        assert_eq!(e.scope(), scope, "{e}");
        assert!(e.to_string().contains("memory_copy of"), "{e}");
    }
}

#[test]
fn memory_of_a_device_is_bound_as_the_interface_says() {
    bound_as_told(&Placed::accelerated(LEVELS[0]));
}

/// Memory of the first device of `placed`, with roles and without.
pub fn bound_as_told(placed: &Placed) {
    use anynpu_nnapi::exec::{Bindings, NnapiError, Region, domain};
    let device = placed.devices().remove(0);
    let runtime = device.runtime();
    let mut run = crate::fences::executable(&device);
    let code = |e: NnapiError| e.code().unwrap();
    // no roles, the same role twice
    let none = domain(runtime, &[], "m").unwrap_err();
    assert_eq!(code(none), sys::BAD_DATA);
    let twice = [run.role(false, 0), run.role(false, 0)];
    assert_eq!(
        code(domain(runtime, &twice, "m").unwrap_err()),
        sys::BAD_DATA
    );
    let beyond = [run.role(true, 7)];
    assert_eq!(
        code(domain(runtime, &beyond, "m").unwrap_err()),
        sys::BAD_DATA
    );
    let make = |output| Arc::new(domain(runtime, &[run.role(output, 0)], "m").unwrap());
    let (taken, given) = (make(false), make(true));
    let bound = |inputs: &Arc<_>, outputs: &Arc<_>| Bindings {
        inputs: vec![Region::Whole(Arc::clone(inputs))],
        outputs: vec![Region::Whole(Arc::clone(outputs))],
    };
    // nothing was written to it yet
    let e = run.compute_on(&bound(&taken, &given)).unwrap_err();
    assert_eq!(code(e), sys::OP_FAILED);
    assert_eq!(code(given.copy_to(&taken, "m").unwrap_err()), sys::BAD_DATA);
    // roles that it does not have
    let e = run.compute_on(&bound(&given, &taken)).unwrap_err();
    assert_eq!(code(e), sys::BAD_DATA);
    let mut host = SharedMemory::new(runtime, 4, "host").unwrap();
    host.bytes_mut().copy_from_slice(&41f32.to_ne_bytes());
    let large = SharedMemory::new(runtime, 8, "large").unwrap();
    let e = large.handle().copy_to(&taken, "m").unwrap_err();
    assert_eq!(code(e), sys::BAD_DATA);
    host.handle().copy_to(&taken, "m").unwrap();
    run.compute_on(&bound(&taken, &given)).unwrap();
    given.copy_to(host.handle(), "m").unwrap();
    assert_eq!(host.bytes(), 42f32.to_ne_bytes());
    // a copy that fails leaves nothing behind
    let e = large.handle().copy_to(&taken, "m").unwrap_err();
    assert_eq!(code(e), sys::BAD_DATA);
    let e = run.compute_on(&bound(&taken, &given)).unwrap_err();
    assert_eq!(code(e), sys::OP_FAILED);
}

fn negate(
    device: &dyn anynpu_hal::Device,
    module: &Arc<dyn Module>,
    x: &Arc<dyn Buffer>,
    y: &Arc<dyn Buffer>,
) {
    let signal = Timeline::new("t").point(1);
    let queue = device.queue();
    queue
        .submit(&Submission {
            module,
            entry: 0,
            inputs: std::slice::from_ref(x),
            outputs: std::slice::from_ref(y),
            states: &[],
            sequences: &[],
            symbols: SymbolValues::step(1, 0, 1, 0),
            wait: &[],
            signal: &signal,
        })
        .unwrap();
    signal.wait(SOON).unwrap();
}

#[test]
fn memory_of_files_is_read_and_written_in_place() {
    files_in_place(&Placed::accelerated(LEVELS[0]));
}

/// Memory of files, as another process shares it, in runs of the first device of `placed`.
pub fn files_in_place(placed: &Placed) {
    let device = opened(placed, StateForm::Host);
    let module = unary(&*device, anynpu_ir::UnaryOp::Neg);
    let copied = || {
        let own = module.as_any().downcast_ref::<NnapiModule>().unwrap();
        own.copied_bytes()
    };
    let over_file = |name: &str| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16).unwrap();
        let buffer = HostBuffer::of_file(BufferDesc::host(name, 16), file).unwrap();
        Arc::new(buffer)
    };
    let (x, y) = (over_file("x"), over_file("y"));
    let imported = |buffer: &Arc<HostBuffer>| {
        let handle = ExternalHandle::Shared(buffer.clone());
        device.import(handle, buffer.desc()).unwrap()
    };
    let (inner_x, inner_y) = (imported(&x), imported(&y));
    fill(&*x, &[1.0, 2.0, 3.0, 4.0]);
    negate(&*device, &module, &inner_x, &inner_y);
    assert_eq!(copied(), 0);
    assert_eq!(numbers_of(&*y, 4), [-1.0, -2.0, -3.0, -4.0]);
    // memory of somebody else that is of no file is copied
    let plain = Arc::new(HostBuffer::new(BufferDesc::host("plain", 16)).unwrap());
    let plain = imported(&plain);
    negate(&*device, &module, &inner_y, &plain);
    assert_eq!(copied(), 16);
    assert_eq!(numbers_of(&*plain, 4), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn hardware_buffers_of_bytes_are_read_and_written_in_place() {
    for level in LEVELS {
        let placed = Placed::accelerated(level);
        let device = opened(&placed, StateForm::Host);
        let kinds = &device.capabilities().memory;
        assert!(kinds.contains(&MemoryKind::AHardwareBuffer), "{kinds:?}");
        let module = unary(&*device, anynpu_ir::UnaryOp::Neg);
        // the library brings the functions that Android's have
        let own = placed.reference();
        let functions = own.runtime().hardware_buffers().unwrap();
        let theirs = Arc::new(functions.allocate(BufferDesc::host("theirs", 16)).unwrap());
        fill(&*theirs, &[1.0, 2.0, 3.0, 4.0]);
        let handle = ExternalHandle::HardwareBuffer(theirs.clone());
        let x = device.import(handle, &BufferDesc::host("x", 16)).unwrap();
        assert_eq!(x.desc().kind, MemoryKind::AHardwareBuffer);
        let kind = MemoryKind::AHardwareBuffer;
        let desc = BufferDesc {
            kind,
            ..BufferDesc::host("y", 16)
        };
        let y = device.allocate(&desc).unwrap();
        assert_eq!(numbers_of(&*y, 4), [0.0; 4]);
        negate(&*device, &module, &x, &y);
        assert_eq!(numbers_of(&*y, 4), [-1.0, -2.0, -3.0, -4.0]);
        let own = module.as_any().downcast_ref::<NnapiModule>().unwrap();
        assert_eq!(own.copied_bytes(), 0);
        // by another handle of the same buffer
        let again = adopted(&functions, &theirs, "again").unwrap();
        let again = ExternalHandle::HardwareBuffer(Arc::new(again));
        let again = device.import(again, &BufferDesc::host("x", 16)).unwrap();
        drop((x, theirs));
        fill(&*again, &[5.0; 4]);
        negate(&*device, &module, &again, &y);
        assert_eq!(numbers_of(&*y, 4), [-5.0; 4]);
        assert!(maps_alone(&*again));
    }
}

#[test]
fn where_there_are_no_hardware_buffers_the_reason_is_told() {
    let settings = Settings::new(LEVELS[0]).with_accelerator();
    for (absent, told) in [
        (
            "AHardwareBuffer_lock",
            "this system has no hardware buffers",
        ),
        (
            "ANeuralNetworksMemory_createFromAHardwareBuffer",
            "no function 'memory_create_from_a_hardware_buffer'",
        ),
    ] {
        let placed = Placed::without(&settings, &[absent]);
        let device = opened(&placed, StateForm::Host);
        let kinds = &device.capabilities().memory;
        assert!(!kinds.contains(&MemoryKind::AHardwareBuffer), "{kinds:?}");
        let desc = BufferDesc {
            kind: MemoryKind::AHardwareBuffer,
            ..BufferDesc::host("x", 16)
        };
        let e = device.allocate(&desc).unwrap_err();
        assert!(e.to_string().contains(told), "{e}");
    }
}
