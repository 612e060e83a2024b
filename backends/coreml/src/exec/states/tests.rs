use anynpu_hal::MemoryKind;

use super::super::{ArrayMemory, Given, Taken};
use super::*;
use crate::binding::Element;

/// A function whose states are plain memory.
#[derive(Debug)]
struct Plain;

#[derive(Debug)]
struct PlainStates(Vec<(String, Vec<u8>)>);

impl Loaded for Plain {
    fn states(&mut self) -> Result<Box<dyn StateMemory>, CoreMlError> {
        Ok(Box::new(PlainStates(Vec::new())))
    }

    fn memory(&mut self, _: &Array) -> Option<Box<dyn ArrayMemory>> {
        None
    }

    fn predict(
        &mut self,
        _: &[Given<'_>],
        _: &mut [Taken<'_>],
        _: Option<&mut dyn StateMemory>,
    ) -> Result<(), CoreMlError> {
        Ok(())
    }
}

impl PlainStates {
    fn of(&mut self, state: &Array) -> &mut Vec<u8> {
        let name = &state.feature;
        if !self.0.iter().any(|(n, _)| n == name) {
            self.0.push((name.clone(), vec![0; state.bytes()]));
        }
        let found = self.0.iter_mut().find(|(n, _)| n == name);
        &mut found.unwrap().1
    }
}

impl StateMemory for PlainStates {
    fn read(&mut self, state: &Array, to: &mut [u8]) -> Result<(), CoreMlError> {
        to.copy_from_slice(self.of(state));
        Ok(())
    }

    fn write(&mut self, state: &Array, from: &[u8]) -> Result<(), CoreMlError> {
        self.of(state).copy_from_slice(from);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A state of two heads, four rows and three numbers.
fn state(name: &str) -> KeptState {
    KeptState {
        array: Array {
            feature: name.into(),
            element: Element::F16,
            dims: vec![1, 2, 4, 3],
        },
        port: 0,
        written: true,
    }
}

fn buffer(rows: usize, dtype: DType) -> StateBuffer {
    StateBuffer::new(
        "coreml:gpu",
        BufferDesc {
            kind: MemoryKind::DeviceLocal,
            ..BufferDesc::host("state", bytes_of(dtype, 6 * rows))
        },
    )
}

fn set(package: &Arc<Package>, function: usize, states: &[KeptState]) -> Arc<StateSet> {
    StateSet::new(package, function, states, &mut Plain).unwrap()
}

/// The numbers of `buffer` in F32.
fn seen_by_host(buffer: &StateBuffer, dtype: DType) -> Vec<f32> {
    let count = buffer.desc().bytes / bytes_of(dtype, 1);
    let mut bytes = vec![0; buffer.desc().bytes];
    // SAFETY: nothing else uses the buffer.
    unsafe { anynpu_hal::read_bytes(buffer, 0, &mut bytes) }.unwrap();
    let mut numbers = vec![0; 4 * count];
    into_function(dtype, &bytes, Element::F32, &mut numbers);
    let each = numbers.chunks_exact(4);
    each.map(|b| f32::from_ne_bytes(b.try_into().unwrap()))
        .collect()
}

fn fill(buffer: &StateBuffer, dtype: DType, first: usize, numbers: &[f32]) {
    let plain: Vec<u8> = numbers.iter().flat_map(|x| x.to_ne_bytes()).collect();
    let mut bytes = vec![0; bytes_of(dtype, numbers.len())];
    out_of_function(Element::F32, &plain, dtype, &mut bytes);
    // SAFETY: nothing else uses the buffer.
    unsafe { anynpu_hal::write_bytes(buffer, bytes_of(dtype, first), &bytes) }.unwrap();
}

fn held(set: &StateSet, state: &KeptState) -> Vec<f32> {
    let mut bytes = vec![0; state.array.bytes()];
    set.memory.lock().read(&state.array, &mut bytes).unwrap();
    let halves = bytes.chunks_exact(2);
    halves
        .map(|b| half::f16::from_ne_bytes(b.try_into().unwrap()).to_f32())
        .collect()
}

/// `[rows, heads, width]` as `[heads, rows, width]`.
fn by_head(rows: &[f32]) -> Vec<f32> {
    let count = rows.len() / 6;
    let at = |i: usize| {
        let (head, row, n) = (i / (3 * count), i / 3 % count, i % 3);
        rows[row * 6 + head * 3 + n]
    };
    (0..rows.len()).map(at).collect()
}

#[test]
fn rows_of_the_host_are_rows_by_head_in_the_program_and_back() {
    let numbers: Vec<f32> = (1..=24).map(|x| x as f32 / 4.0).collect();
    for dtype in [DType::F32, DType::F16] {
        let (package, state) = (Arc::new(Package::new()), state("k"));
        let set = set(&package, 0, std::slice::from_ref(&state));
        let buffer = buffer(4, dtype);
        assert_eq!(seen_by_host(&buffer, dtype), vec![0.0; 24]);
        fill(&buffer, dtype, 0, &numbers);
        buffer.put_in(&set, 0, &state, dtype).unwrap();
        assert_eq!(held(&set, &state), by_head(&numbers));
        // a run wrote other numbers
        let other: Vec<f32> = numbers.iter().map(|x| -x).collect();
        let halves = by_head(&other).into_iter().map(half::f16::from_f32);
        let bytes: Vec<u8> = halves.flat_map(half::f16::to_ne_bytes).collect();
        set.memory.lock().write(&state.array, &bytes).unwrap();
        buffer.ran(true);
        assert_eq!(seen_by_host(&buffer, dtype), other);
        // what the host changes of that is in the next run
        fill(&buffer, dtype, 6, &[9.0; 6]);
        buffer.put_in(&set, 0, &state, dtype).unwrap();
        let mut expected = other.clone();
        expected[6..12].fill(9.0);
        assert_eq!(held(&set, &state), by_head(&expected));
    }
}

#[test]
fn memory_of_the_host_is_given_back_once_the_program_has_the_rows() {
    let (package, state) = (Arc::new(Package::new()), state("k"));
    let set = set(&package, 0, std::slice::from_ref(&state));
    let of_host = |buffer: &StateBuffer| buffer.home.lock().host.is_some();
    let whole = buffer(4, DType::F16);
    fill(&whole, DType::F16, 0, &[1.0; 24]);
    assert!(of_host(&whole));
    whole.put_in(&set, 0, &state, DType::F16).unwrap();
    assert!(of_host(&whole));
    whole.ran(true);
    assert!(!of_host(&whole));
    assert_eq!(seen_by_host(&whole, DType::F16), [1.0; 24]);
    // rows that the program has no room for stay where they are
    let longer = buffer(5, DType::F16);
    fill(&longer, DType::F16, 0, &[2.0; 30]);
    longer.put_in(&set, 0, &state, DType::F16).unwrap();
    longer.ran(true);
    assert_eq!(seen_by_host(&longer, DType::F16), [2.0; 30]);
}

#[test]
fn a_state_moves_with_its_rows_to_another_function() {
    let (package, other) = (Arc::new(Package::new()), Arc::new(Package::new()));
    let states = [state("k"), state("v")];
    let first = set(&package, 0, &states);
    assert!(first.fits(&package, 0, &states) && first.fits(&package, 1, &states));
    assert!(!first.fits(&other, 0, &states) && !first.fits(&package, 0, &states[..1]));
    package.set_shares(false);
    assert!(first.fits(&package, 0, &states) && !first.fits(&package, 1, &states));
    let buffer = buffer(4, DType::F16);
    fill(&buffer, DType::F16, 0, &[3.0; 24]);
    buffer.put_in(&first, 0, &states[0], DType::F16).unwrap();
    buffer.ran(true);
    let second = set(&package, 1, &states);
    buffer.put_in(&second, 1, &states[1], DType::F16).unwrap();
    assert_eq!(held(&second, &states[1]), [3.0; 24]);
    assert!(buffer.set(0).is_none() && Arc::ptr_eq(&buffer.set(1).unwrap(), &second));
}

#[test]
fn what_a_failed_run_left_is_not_taken_for_the_rows_where_the_host_has_them() {
    let (package, state) = (Arc::new(Package::new()), state("k"));
    let set = set(&package, 0, std::slice::from_ref(&state));
    let buffer = buffer(4, DType::F16);
    fill(&buffer, DType::F16, 0, &[1.0; 24]);
    buffer.put_in(&set, 0, &state, DType::F16).unwrap();
    set.memory.lock().write(&state.array, &[0xff; 48]).unwrap();
    buffer.ran(false);
    assert_eq!(seen_by_host(&buffer, DType::F16), [1.0; 24]);
    buffer.put_in(&set, 0, &state, DType::F16).unwrap();
    assert_eq!(held(&set, &state), [1.0; 24]);
}
