//! Telling the library of a graph.

use std::ffi::CString;
use std::sync::Arc;

use super::context::c_name;
use super::executable::Port;
use super::{Context, Executable, QnnError};
use crate::htp::{DataType, Encoding, Graph, Node, Param, Scalar, Tensor, TensorId, TensorKind};
use crate::sys::{self, ErrorCode, Handle, ScaleOffset};

/// Names of the types in the interface.
const TYPES: [(DataType, u32); 9] = [
    (DataType::F32, 0x232),
    (DataType::F16, 0x216),
    (DataType::I32, 0x032),
    (DataType::U32, 0x132),
    (DataType::Bool, 0x508),
    (DataType::Sfixed8, 0x308),
    (DataType::Ufixed8, 0x408),
    (DataType::Ufixed16, 0x416),
    (DataType::Sfixed32, 0x332),
];

/// The package that Qualcomm's own operations are in.
const PACKAGE: &std::ffi::CStr = c"qti.aisw";

/// The type of this number.
pub(super) fn type_of(code: u32) -> Option<DataType> {
    TYPES.iter().find(|(_, c)| *c == code).map(|(t, _)| *t)
}

fn code_of(dtype: DataType) -> u32 {
    let known = TYPES.iter().find(|(t, _)| *t == dtype);
    known.map_or(0, |(_, code)| *code)
}

/// The library's form of a tensor, with all it points to but contents.
#[derive(Debug)]
pub(super) struct Record {
    pub tensor: RawTensor,
    _name: CString,
    _dims: Box<[u32]>,
    _scales: Box<[ScaleOffset]>,
    _narrow: Box<[f32]>,
    _zeros: Box<[i32]>,
    _block: Box<[u32]>,
    _expansion: Option<Box<sys::BlockwiseExpansion>>,
    _factors: Box<[u8]>,
}

/// A tensor of the interface, whose contents nobody wants to see.
#[derive(Clone, Copy)]
pub(super) struct RawTensor(sys::Tensor);

impl std::fmt::Debug for RawTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tensor {}", self.0.v2.id)
    }
}

impl std::ops::Deref for RawTensor {
    type Target = sys::Tensor;

    fn deref(&self) -> &sys::Tensor {
        &self.0
    }
}

impl std::ops::DerefMut for RawTensor {
    fn deref_mut(&mut self) -> &mut sys::Tensor {
        &mut self.0
    }
}

impl Record {
    pub fn of(tensor: &Tensor) -> Result<Record, QnnError> {
        let name = c_name(&tensor.name)?;
        let dims: Box<[u32]> = tensor.dims.clone().into();
        let plain = |scales: &[f32]| -> Box<[ScaleOffset]> {
            let scale = |&scale: &f32| ScaleOffset { scale, offset: 0 };
            scales.iter().map(scale).collect()
        };
        let (mut scales, mut narrow): (Box<[ScaleOffset]>, Box<[f32]>) = Default::default();
        let (mut zeros, mut block): (Box<[i32]>, Box<[u32]>) = Default::default();
        let mut factors: Box<[u8]> = Box::default();
        let mut expansion = None;
        let mut quantize = sys::QuantizeParams::UNDEFINED;
        let mut define = |kind, encoding| {
            quantize = sys::QuantizeParams {
                definition: sys::ENCODING_DEFINED,
                kind,
                encoding,
            };
        };
        match &tensor.encoding {
            Encoding::None => {}
            Encoding::Scale { scale, offset } => {
                let scale_offset = ScaleOffset {
                    scale: *scale,
                    offset: *offset,
                };
                define(sys::ENCODING_SCALE_OFFSET, sys::Encoding { scale_offset });
            }
            Encoding::Channels { axis, scales: all } => {
                scales = plain(all);
                let axis = sys::AxisScaleOffset {
                    axis: *axis as i32,
                    count: scales.len() as u32,
                    scales: scales.as_ptr(),
                };
                define(sys::ENCODING_AXIS, sys::Encoding { axis });
            }
            Encoding::NarrowChannels {
                bits,
                axis,
                scales: all,
            } => {
                narrow = all.clone().into();
                zeros = vec![0; narrow.len()].into();
                let bw_axis = sys::BwAxisScaleOffset {
                    bits: *bits,
                    axis: *axis as i32,
                    count: narrow.len() as u32,
                    scales: narrow.as_ptr(),
                    offsets: zeros.as_ptr(),
                };
                define(sys::ENCODING_BW_AXIS, sys::Encoding { bw_axis });
            }
            Encoding::Blocks {
                block: size,
                scales: all,
            } => {
                (scales, block) = (plain(all), size.clone().into());
                let blocks = sys::BlockEncoding {
                    block: block.as_ptr(),
                    scales: scales.as_ptr(),
                };
                define(sys::ENCODING_BLOCK, sys::Encoding { block: blocks });
            }
            Encoding::Factored {
                axis,
                scales: all,
                factors: each,
            } => {
                (scales, factors) = (plain(all), each.clone().into());
                let held = expansion.insert(Box::new(sys::BlockwiseExpansion {
                    axis: *axis as i32,
                    scales: scales.as_ptr(),
                    blocks_per_channel: (factors.len() / scales.len().max(1)) as u32,
                    factor_bits: 4,
                    factor_type: sys::FACTORS_U8,
                    factors: factors.as_ptr(),
                }));
                let expansion = &raw const **held;
                define(sys::ENCODING_EXPANSION, sys::Encoding { expansion });
            }
        }
        let v2 = sys::TensorV2 {
            id: 0,
            name: name.as_ptr(),
            kind: match tensor.kind {
                TensorKind::Input => sys::TENSOR_APP_WRITE,
                TensorKind::Output => sys::TENSOR_APP_READ,
                TensorKind::Native => sys::TENSOR_NATIVE,
                TensorKind::Static(_) => sys::TENSOR_STATIC,
            },
            data_format: sys::DATA_FORMAT_FLAT,
            data_type: code_of(tensor.dtype),
            quantize,
            rank: dims.len() as u32,
            dimensions: dims.as_ptr(),
            memory_type: 0,
            content: sys::TensorContent {
                client: sys::ClientBuffer {
                    data: std::ptr::null_mut(),
                    bytes: 0,
                },
            },
            is_dynamic: std::ptr::null(),
            sparse: [0; 3],
            is_produced: 0,
        };
        Ok(Record {
            tensor: RawTensor(sys::Tensor {
                version: sys::TENSOR_V2,
                v2,
            }),
            _name: name,
            _dims: dims,
            _scales: scales,
            _narrow: narrow,
            _zeros: zeros,
            _block: block,
            _expansion: expansion,
            _factors: factors,
        })
    }
}

/// Makes `graph` in `context` and finalizes it. The graph was checked, and nothing else happens in the context.
pub(super) fn build(context: &Arc<Context>, graph: &Graph) -> Result<Executable, QnnError> {
    let device = context.device();
    let table = device.table();
    let failed =
        |call, what: &str, code: ErrorCode| Err(device.error(call, format!("'{what}'"), code));
    let name = c_name(&graph.name)?;
    let call = "graphCreate";
    let create = table.graph_create.ok_or(QnnError::Missing { call })?;
    let configs = [std::ptr::null(); 1];
    let mut handle: Handle = std::ptr::null_mut();
    // SAFETY: the context is alive, the name ends in 0, the list of configurations in null.
    let code = unsafe {
        create(
            context.handle(),
            name.as_ptr(),
            configs.as_ptr(),
            &raw mut handle,
        )
    };
    if code != 0 {
        return failed(call, &graph.name, code);
    }
    let call = "tensorCreateGraphTensor";
    let create = table.tensor_create_graph_tensor;
    let create = create.ok_or(QnnError::Missing { call })?;
    let mut records = Vec::with_capacity(graph.tensors.len());
    for tensor in &graph.tensors {
        let mut record = Record::of(tensor)?;
        if let TensorKind::Static(contents) = &tensor.kind {
            record.tensor.v2.content.client = sys::ClientBuffer {
                data: contents.as_ptr().cast_mut().cast(),
                bytes: u32::try_from(contents.len()).unwrap_or(u32::MAX),
            };
        }
        // SAFETY: the graph was made above. All that the tensor points to is in the record, and contents, which have
        // the tensor's size, in the graph; the library copies what it keeps and writes the id.
        let code = unsafe { create(handle, &raw mut *record.tensor) };
        if code != 0 {
            return failed(call, &tensor.name, code);
        }
        records.push(record);
    }
    for node in &graph.nodes {
        add(context, handle, graph, node, &records)?;
    }
    let call = "graphFinalize";
    let finalize = table.graph_finalize.ok_or(QnnError::Missing { call })?;
    let quiet = sys::Quiet::compiling(device.core_api());
    // SAFETY: the graph was made above; neither profile nor signal are given.
    let code = unsafe { finalize(handle, std::ptr::null_mut(), std::ptr::null_mut()) };
    drop(quiet);
    if code != 0 {
        return failed(call, &graph.name, code);
    }
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for (tensor, record) in graph.tensors.iter().zip(records) {
        match tensor.kind {
            TensorKind::Input => inputs.push(Port::of(tensor, record)?),
            TensorKind::Output => outputs.push(Port::of(tensor, record)?),
            TensorKind::Native | TensorKind::Static(_) => {}
        }
    }
    Ok(Executable::new(
        context,
        handle,
        &graph.name,
        inputs,
        outputs,
    ))
}

/// Has the library validate `node` and adds it to the graph.
fn add(
    context: &Context,
    graph_handle: Handle,
    graph: &Graph,
    node: &Node,
    records: &[Record],
) -> Result<(), QnnError> {
    let device = context.device();
    let table = device.table();
    let raw = |id: &TensorId| *records[id.0 as usize].tensor;
    let inputs: Vec<sys::Tensor> = node.inputs.iter().map(raw).collect();
    let outputs: Vec<sys::Tensor> = node.outputs.iter().map(raw).collect();
    let (name, op) = (c_name(&node.name)?, c_name(node.op)?);
    let names: Result<Vec<CString>, QnnError> = node.params.iter().map(|p| c_name(p.0)).collect();
    let names = names?;
    let params = node.params.iter().zip(&names).map(|((_, param), name)| {
        let (kind, value) = match param {
            Param::Scalar(scalar) => {
                let scalar = scalar_of(*scalar);
                (sys::PARAM_SCALAR, sys::ParamValue { scalar })
            }
            Param::Tensor(id) => {
                let tensor = raw(id);
                (sys::PARAM_TENSOR, sys::ParamValue { tensor })
            }
        };
        sys::Param {
            kind,
            name: name.as_ptr(),
            value,
        }
    });
    let params: Vec<sys::Param> = params.collect();
    let config = sys::OpConfig {
        version: sys::OP_CONFIG_V1,
        name: name.as_ptr(),
        package: PACKAGE.as_ptr(),
        op: op.as_ptr(),
        param_count: params.len() as u32,
        params: params.as_ptr(),
        input_count: inputs.len() as u32,
        inputs: inputs.as_ptr(),
        output_count: outputs.len() as u32,
        outputs: outputs.as_ptr(),
    };
    let what = || format!("'{}' ({}) of '{}'", node.name, node.op, graph.name);
    // SAFETY: all that the configuration points to lives during the call.
    let code = unsafe { device.validate(config) }?;
    if code != 0 {
        return Err(device.error("backendValidateOpConfig", what(), code));
    }
    let call = "graphAddNode";
    let add = table.graph_add_node.ok_or(QnnError::Missing { call })?;
    // SAFETY: the graph is alive and not finalized; all that the configuration points to lives during the call.
    match unsafe { add(graph_handle, config) } {
        0 => Ok(()),
        code => Err(device.error(call, what(), code)),
    }
}

fn scalar_of(scalar: Scalar) -> sys::Scalar {
    let (dtype, value) = match scalar {
        Scalar::U32(u32) => (DataType::U32, sys::ScalarValue { u32 }),
        Scalar::I32(i32) => (DataType::I32, sys::ScalarValue { i32 }),
        Scalar::F32(f32) => (DataType::F32, sys::ScalarValue { f32 }),
        Scalar::Bool(b) => (DataType::Bool, sys::ScalarValue { bool8: u8::from(b) }),
    };
    sys::Scalar {
        data_type: code_of(dtype),
        value,
    }
}
