//! Numbers that stand for kinds of things. Each list only ever grows; what a number means never changes. A reader that
//! meets a number it does not know treats what it is on as not supported.

/// Major version of the interface. Another one is another interface.
pub const ANYNPU_ABI_MAJOR: u16 = 1;
/// Minor version of the interface: what was added to the major one.
pub const ANYNPU_ABI_MINOR: u16 = 1;
/// Version of the op set that this header describes.
pub const ANYNPU_OP_SET: u32 = 2;

/// What became of a call.
pub type anynpu_status = u32;
/// It did what it should.
pub const ANYNPU_OK: anynpu_status = 0;
/// The device is gone, and all that was on it.
pub const ANYNPU_DEVICE_LOST: anynpu_status = 1;
/// Memory ran out.
pub const ANYNPU_OUT_OF_MEMORY: anynpu_status = 2;
/// It took too long.
pub const ANYNPU_TIMEOUT: anynpu_status = 3;
/// Nodes were refused; `refuse` of the request was told which.
pub const ANYNPU_COMPILE_REJECTED: anynpu_status = 4;
/// A compiled form does not fit the device.
pub const ANYNPU_BLOB_REJECTED: anynpu_status = 5;
/// A weight can't be had.
pub const ANYNPU_WEIGHT: anynpu_status = 6;
/// The caller broke the rules: a size, a number, an order.
pub const ANYNPU_INVALID_USE: anynpu_status = 7;
/// The caller asked to stop.
pub const ANYNPU_CANCELLED: anynpu_status = 8;
/// The device does not offer the call.
pub const ANYNPU_UNSUPPORTED: anynpu_status = 9;
/// The vendor's own library failed; `vendor_code` of the message is its code.
pub const ANYNPU_VENDOR: anynpu_status = 10;
/// There is no such device here; the message says what was looked for and where.
pub const ANYNPU_UNAVAILABLE: anynpu_status = 11;

/// How important a line of the log is.
pub type anynpu_log_level = u32;
/// Something failed.
pub const ANYNPU_LOG_ERROR: anynpu_log_level = 1;
/// Something is not as it should be.
pub const ANYNPU_LOG_WARN: anynpu_log_level = 2;
/// For people who look closely.
pub const ANYNPU_LOG_INFO: anynpu_log_level = 3;
/// For the plugin's own developers.
pub const ANYNPU_LOG_DEBUG: anynpu_log_level = 4;

/// What a device is.
pub type anynpu_device_kind = u32;
/// A processor.
pub const ANYNPU_KIND_CPU: anynpu_device_kind = 0;
/// A graphics processor.
pub const ANYNPU_KIND_GPU: anynpu_device_kind = 1;
/// A neural processor.
pub const ANYNPU_KIND_NPU: anynpu_device_kind = 2;
/// A model of a device, not a device.
pub const ANYNPU_KIND_SIMULATED: anynpu_device_kind = 3;
/// Something else.
pub const ANYNPU_KIND_OTHER: anynpu_device_kind = 4;

/// Feature: the device runs the whole op set and refuses no node.
pub const ANYNPU_FEATURE_BASELINE: u64 = 1;
/// Feature: entries may leave symbols bounded rather than exact.
pub const ANYNPU_FEATURE_DYNAMIC_SHAPES: u64 = 2;
/// Feature: submissions go on after `submit` has returned.
pub const ANYNPU_FEATURE_ASYNCHRONOUS: u64 = 4;
/// Feature: the device computes nothing or fails on purpose, and is used only if it is named.
pub const ANYNPU_FEATURE_ARTIFICIAL: u64 = 8;

/// How a device keeps states from step to step.
pub type anynpu_state_support = u32;
/// It runs no node that touches a state.
pub const ANYNPU_STATES_NONE: anynpu_state_support = 0;
/// It writes rows into the caller's buffer.
pub const ANYNPU_STATES_IN_PLACE: anynpu_state_support = 2;

/// What kind of memory a buffer is.
pub type anynpu_memory_kind = u32;
/// Ordinary host memory.
pub const ANYNPU_MEMORY_HOST: anynpu_memory_kind = 0;
/// Anonymous memory with a file descriptor.
pub const ANYNPU_MEMORY_MEMFD: anynpu_memory_kind = 1;
/// A DMA-BUF.
pub const ANYNPU_MEMORY_DMA_BUF: anynpu_memory_kind = 2;
/// An Android hardware buffer.
pub const ANYNPU_MEMORY_AHARDWAREBUFFER: anynpu_memory_kind = 3;
/// An Apple IOSurface.
pub const ANYNPU_MEMORY_IOSURFACE: anynpu_memory_kind = 4;
/// Memory that only its device can touch.
pub const ANYNPU_MEMORY_DEVICE: anynpu_memory_kind = 5;

/// Whether a device runs a node.
pub type anynpu_support = u32;
/// It does not.
pub const ANYNPU_SUPPORT_NO: anynpu_support = 0;
/// It does, in its own way.
pub const ANYNPU_SUPPORT_YES: anynpu_support = 1;
/// It does, but not natively: in a wider type, on the processor, ….
pub const ANYNPU_SUPPORT_EMULATED: anynpu_support = 2;

/// Why a device does not run a node, or not natively.
pub type anynpu_reason = u32;
/// The device has no such op.
pub const ANYNPU_REASON_OP_UNKNOWN: anynpu_reason = 0;
/// The op is newer than the device's op set.
pub const ANYNPU_REASON_OP_VERSION: anynpu_reason = 1;
/// An element type.
pub const ANYNPU_REASON_DTYPE: anynpu_reason = 2;
/// A quantisation format.
pub const ANYNPU_REASON_QUANTIZATION: anynpu_reason = 3;
/// Too many or too few dimensions.
pub const ANYNPU_REASON_RANK: anynpu_reason = 4;
/// A run-time dimension where the device needs a fixed one.
pub const ANYNPU_REASON_DYNAMIC_SHAPE: anynpu_reason = 5;
/// A dimension past the device's limit.
pub const ANYNPU_REASON_SHAPE_LIMIT: anynpu_reason = 6;
/// A memory layout, or which operand is a weight.
pub const ANYNPU_REASON_LAYOUT: anynpu_reason = 7;
/// The device's memory.
pub const ANYNPU_REASON_MEMORY_LIMIT: anynpu_reason = 8;
/// State that outlives a step.
pub const ANYNPU_REASON_STATE: anynpu_reason = 9;
/// The vendor's own validator said no.
pub const ANYNPU_REASON_VENDOR_REJECTED: anynpu_reason = 10;

/// Whether a compiled form fits a device.
pub type anynpu_compatibility = u32;
/// It does not load.
pub const ANYNPU_BLOB_UNSUPPORTED: anynpu_compatibility = 0;
/// Load it.
pub const ANYNPU_BLOB_OPTIMAL: anynpu_compatibility = 1;
/// It loads, but compiling again would give a better one.
pub const ANYNPU_BLOB_PREFER_RECOMPILE: anynpu_compatibility = 2;

/// What a device is asked to be.
pub type anynpu_power = u32;
/// As it is by itself.
pub const ANYNPU_POWER_DEFAULT: anynpu_power = 0;
/// As fast as can be, for seconds.
pub const ANYNPU_POWER_BURST: anynpu_power = 1;
/// As fast as can be held.
pub const ANYNPU_POWER_SUSTAINED: anynpu_power = 2;
/// Sparing.
pub const ANYNPU_POWER_SAVER: anynpu_power = 3;

/// The type of a tensor's elements. Tensors are row-major without gaps. Block types are GGUF's: a row is cut into blocks
/// of consecutive elements that stand one behind the other without padding, numbers in them are little endian, and a
/// block is aligned to one byte. `d`, `m` and `dmin` are IEEE binary16; arithmetic of decoding is in binary32.
pub type anynpu_dtype = u32;
/// IEEE 754 binary32.
pub const ANYNPU_DTYPE_F32: anynpu_dtype = 0;
/// IEEE 754 binary16.
pub const ANYNPU_DTYPE_F16: anynpu_dtype = 1;
/// bfloat16: the upper half of a binary32.
pub const ANYNPU_DTYPE_BF16: anynpu_dtype = 2;
/// Signed 8-bit integer.
pub const ANYNPU_DTYPE_I8: anynpu_dtype = 3;
/// Unsigned 8-bit integer.
pub const ANYNPU_DTYPE_U8: anynpu_dtype = 4;
/// Signed 16-bit integer.
pub const ANYNPU_DTYPE_I16: anynpu_dtype = 5;
/// Signed 32-bit integer.
pub const ANYNPU_DTYPE_I32: anynpu_dtype = 6;
/// Signed 64-bit integer.
pub const ANYNPU_DTYPE_I64: anynpu_dtype = 7;
/// One byte, 0 or 1.
pub const ANYNPU_DTYPE_BOOL: anynpu_dtype = 8;
/// Blocks of 32 elements in 18 bytes: `d`; `qs[16]`. Byte `i` of `qs` holds the 4-bit code of element `i` in its low
/// half and that of element `i + 16` in its high half. Element = `(code - 8) * d`.
pub const ANYNPU_DTYPE_Q4_0: anynpu_dtype = 32;
/// Blocks of 32 elements in 20 bytes: `d`; `m`; `qs[16]` as in Q4_0. Element = `code * d + m`.
pub const ANYNPU_DTYPE_Q4_1: anynpu_dtype = 33;
/// Blocks of 32 elements in 22 bytes: `d`; `qh`, a u32 whose bit `i` is the fifth (highest) bit of element `i`'s code;
/// `qs[16]` as in Q4_0 with the low four bits. Element = `(code - 16) * d`.
pub const ANYNPU_DTYPE_Q5_0: anynpu_dtype = 34;
/// Blocks of 32 elements in 24 bytes: `d`; `m`; `qh`; `qs[16]` as in Q5_0. Element = `code * d + m`.
pub const ANYNPU_DTYPE_Q5_1: anynpu_dtype = 35;
/// Blocks of 32 elements in 34 bytes: `d`; `q[32]`, signed bytes. Element = `q * d`.
pub const ANYNPU_DTYPE_Q8_0: anynpu_dtype = 36;
/// Blocks of 256 elements in 144 bytes: `d`; `dmin`; `s[12]`; `qs[128]`. Sub-block `j` of 32 elements has a 6-bit scale
/// and a 6-bit minimum in `s`: for `j < 4` they are `s[j] & 63` and `s[j + 4] & 63`, else
/// `(s[j + 4] & 15) | (s[j - 4] >> 6) << 4` and `(s[j + 4] >> 4) | (s[j] >> 6) << 4`. Codes stand in groups of 64
/// elements to 32 bytes: byte `i` of group `g` holds element `64 g + i` in its low half and element `64 g + 32 + i` in
/// its high half. Element = `code * (d * scale) - dmin * minimum`.
pub const ANYNPU_DTYPE_Q4_K: anynpu_dtype = 37;
/// Blocks of 256 elements in 176 bytes: `d`; `dmin`; `s[12]`; `qh[32]`; `qs[128]`. As Q4_K with a fifth (highest) bit:
/// that of element `32 j + i` is bit `j` of `qh[i]`.
pub const ANYNPU_DTYPE_Q5_K: anynpu_dtype = 38;
/// Blocks of 256 elements in 210 bytes: `ql[128]`; `qh[64]`; `scales[16]`, signed bytes; `d`. The block is two halves of
/// 128 elements, each with 64 bytes of `ql`, 32 of `qh` and 8 scales. In a half, for `i` below 32: element `i` has the
/// low four bits `ql[i] & 15` and the high two `qh[i] & 3`; element `i + 32` has `ql[i + 32] & 15` and `qh[i] >> 2 & 3`;
/// element `i + 64` has `ql[i] >> 4` and `qh[i] >> 4 & 3`; element `i + 96` has `ql[i + 32] >> 4` and `qh[i] >> 6`.
/// Scales are for 16 elements each. Element = `(code - 32) * (d * scale)`.
pub const ANYNPU_DTYPE_Q6_K: anynpu_dtype = 39;

/// A size that is known when a step is submitted.
pub type anynpu_symbol = u32;
/// Tokens of a step.
pub const ANYNPU_SYMBOL_TOKENS: anynpu_symbol = 0;
/// Rows that the KV cache holds when the step begins, and so the position of its first token.
pub const ANYNPU_SYMBOL_CACHED: anynpu_symbol = 1;
/// Rows of which outputs are wanted.
pub const ANYNPU_SYMBOL_OUTPUTS: anynpu_symbol = 2;
/// Rows that the KV cache can hold.
pub const ANYNPU_SYMBOL_CAPACITY: anynpu_symbol = 3;
/// How many symbols there are at most.
pub const ANYNPU_SYMBOLS: u32 = 8;

/// Where a value comes from.
pub type anynpu_value_source = u32;
/// From outside: the caller binds it.
pub const ANYNPU_VALUE_INPUT: anynpu_value_source = 0;
/// A weight: `index` is its number among the graph's weights.
pub const ANYNPU_VALUE_WEIGHT: anynpu_value_source = 1;
/// A node: `index` is its number among the graph's nodes.
pub const ANYNPU_VALUE_NODE: anynpu_value_source = 2;

/// Type of an attribute's value.
pub type anynpu_attribute_kind = u32;
/// `integer`. Truth is 1 or 0; a word is one of the constants for it; a state is its number in the graph's.
pub const ANYNPU_ATTRIBUTE_INTEGER: anynpu_attribute_kind = 0;
/// `real`.
pub const ANYNPU_ATTRIBUTE_REAL: anynpu_attribute_kind = 1;
/// `count` elements at `integers`.
pub const ANYNPU_ATTRIBUTE_INTEGERS: anynpu_attribute_kind = 2;
/// `count` elements at `reals`.
pub const ANYNPU_ATTRIBUTE_REALS: anynpu_attribute_kind = 3;
/// `count` elements at `dims`.
pub const ANYNPU_ATTRIBUTE_DIMS: anynpu_attribute_kind = 4;

/// What an attribute says.
pub type anynpu_key = u32;
/// Integer: MatMul's first operand is given transposed.
pub const ANYNPU_KEY_TRANSPOSE_A: anynpu_key = 0;
/// Integer: MatMul's second operand is given transposed.
pub const ANYNPU_KEY_TRANSPOSE_B: anynpu_key = 1;
/// Real: added to the mean square or the variance.
pub const ANYNPU_KEY_EPS: anynpu_key = 2;
/// Integer: `ANYNPU_ROPE_…`.
pub const ANYNPU_KEY_STYLE: anynpu_key = 3;
/// Integer: elements of a head that are rotated.
pub const ANYNPU_KEY_ROTATED: anynpu_key = 4;
/// Reals: the frequency of each pair, with all scaling for long contexts in it.
pub const ANYNPU_KEY_FREQUENCIES: anynpu_key = 5;
/// Real: what cosines and sines are multiplied by.
pub const ANYNPU_KEY_MAGNITUDE: anynpu_key = 6;
/// Integer: the state that attention reads keys from; absent if they are operand 1.
pub const ANYNPU_KEY_KEY_STATE: anynpu_key = 7;
/// Integer: the state that attention reads values from; absent if they are operand 2.
pub const ANYNPU_KEY_VALUE_STATE: anynpu_key = 8;
/// Integer: a query sees rows up to its position only.
pub const ANYNPU_KEY_CAUSAL: anynpu_key = 9;
/// Integer: the last operand is an additive mask.
pub const ANYNPU_KEY_MASK: anynpu_key = 10;
/// Real: multiplies scores.
pub const ANYNPU_KEY_SCALE: anynpu_key = 11;
/// Real: scores become `cap * tanh(score / cap)`; absent if they don't.
pub const ANYNPU_KEY_SOFT_CAP: anynpu_key = 12;
/// Integer: rows at or below `position - window` are hidden; absent if none are.
pub const ANYNPU_KEY_WINDOW: anynpu_key = 13;
/// Integer: the state that is read or written.
pub const ANYNPU_KEY_STATE: anynpu_key = 14;
/// Dims, one: the first row written, or the first element of a series.
pub const ANYNPU_KEY_AT: anynpu_key = 15;
/// Dims, one: number of rows of keys.
pub const ANYNPU_KEY_KEYS: anynpu_key = 16;
/// Real: what hidden places of a mask hold.
pub const ANYNPU_KEY_HIDDEN: anynpu_key = 17;
/// Integer: an axis; absent where an op does without.
pub const ANYNPU_KEY_AXIS: anynpu_key = 18;
/// Integer: which function: `ANYNPU_UNARY_…`, `ANYNPU_ACTIVATION_…`, `ANYNPU_BINARY_…` or `ANYNPU_REDUCE_…`.
pub const ANYNPU_KEY_FUNCTION: anynpu_key = 19;
/// Dims: the shape of the result.
pub const ANYNPU_KEY_SHAPE: anynpu_key = 20;
/// Integers: output axis `i` is input axis `perm[i]`.
pub const ANYNPU_KEY_PERM: anynpu_key = 21;
/// Integer: first element of a slice.
pub const ANYNPU_KEY_START: anynpu_key = 22;
/// Integer: one past the last element of a slice.
pub const ANYNPU_KEY_END: anynpu_key = 23;
/// Integer: distance of elements of a slice.
pub const ANYNPU_KEY_STEP: anynpu_key = 24;
/// Integers: sizes of parts.
pub const ANYNPU_KEY_SIZES: anynpu_key = 25;
/// Integers: axes, ascending.
pub const ANYNPU_KEY_AXES: anynpu_key = 26;
/// Integer: reduced axes stay as size 1.
pub const ANYNPU_KEY_KEEP_DIMS: anynpu_key = 27;
/// Integer: `ANYNPU_DTYPE_…` of the result.
pub const ANYNPU_KEY_TO: anynpu_key = 28;
/// Integer: how many.
pub const ANYNPU_KEY_COUNT: anynpu_key = 29;
/// Integers, one an axis: steps of a convolution.
pub const ANYNPU_KEY_STRIDE: anynpu_key = 30;
/// Integers, one an axis: zeros added at both ends.
pub const ANYNPU_KEY_PADDING: anynpu_key = 31;
/// Integers, one an axis: distances of taps.
pub const ANYNPU_KEY_DILATION: anynpu_key = 32;
/// Integer: groups of channels.
pub const ANYNPU_KEY_GROUPS: anynpu_key = 33;
/// Dims, one: number of elements.
pub const ANYNPU_KEY_LENGTH: anynpu_key = 34;
/// Real: the base of rotary frequencies, from which FREQUENCIES and MAGNITUDE follow with the two that come next.
pub const ANYNPU_KEY_BASE: anynpu_key = 35;
/// Integer: how frequencies are stretched for long contexts, `ANYNPU_SCALING_…`.
pub const ANYNPU_KEY_SCALING: anynpu_key = 36;
/// Reals: what the way of stretching says it takes.
pub const ANYNPU_KEY_SCALING_PARAMETERS: anynpu_key = 37;

/// An operation. The reference of operands, shapes and meaning is the documentation of `Op` in `graphs/ir/src/op.rs`; the
/// lines here name operands `→` result and the keys of attributes. `?` marks what may be absent, `…` any leading
/// dimensions. Arithmetic is in F32, rounded once to the result's type; results are F32 but where an op keeps its operands'
/// type.
pub type anynpu_op = u32;
/// `x[…, K], w[N, K], bias[N]? → […, N]`: `x · wᵀ + bias`. `w` may be of a block type.
pub const ANYNPU_OP_LINEAR: anynpu_op = 0;
/// `x[T, M, K], w[E, N, K], ids[T, S] → [T, S, N]`: row `x[t, s]` (or `x[t, 0]`) times the matrix `w[ids[t, s]]`ᵀ.
pub const ANYNPU_OP_EXPERT_LINEAR: anynpu_op = 1;
/// `a[…, M, K], b[…, K, N] → […, M, N]`; leading dimensions broadcast. TRANSPOSE_A, TRANSPOSE_B.
pub const ANYNPU_OP_MATMUL: anynpu_op = 2;
/// `table[V, D], ids[…] → […, D]`. `table` may be of a block type.
pub const ANYNPU_OP_EMBEDDING: anynpu_op = 3;
/// `x[…, D], weight[D] → […, D]`: `x / √(mean(x²) + eps) · weight`. EPS.
pub const ANYNPU_OP_RMS_NORM: anynpu_op = 4;
/// `x[…, D], gamma[D], beta[D]? → […, D]`: `(x − mean) / √(variance + eps) · gamma + beta`. EPS.
pub const ANYNPU_OP_LAYER_NORM: anynpu_op = 5;
/// `x[T, H, D], positions[T], freq_factors[rotated / 2]? → [T, H, D]`: rotates each pair `i` of a head by the angle
/// `position · frequency[i]`, divided by `freq_factors[i]` if they are given, with cosine and sine times the magnitude.
/// STYLE, ROTATED, FREQUENCIES, MAGNITUDE, BASE, SCALING, SCALING_PARAMETERS.
pub const ANYNPU_OP_ROPE: anynpu_op = 6;
/// `q[T, heads, D], (k[S, kv_heads, D], v[S, kv_heads, Dv])?, positions[T]?, mask[T, S]? → [T, heads, Dv]`. Query head `h`
/// reads KV head `h / (heads / kv_heads)`. Keys and values are operands, or the first `cached + T` rows of two states.
/// KEY_STATE?, VALUE_STATE?, CAUSAL, MASK, SCALE, SOFT_CAP?, WINDOW?.
pub const ANYNPU_OP_ATTENTION: anynpu_op = 7;
/// `rows → ()`: writes rows from AT on of a state along its axis, converted to its type. STATE, AT.
pub const ANYNPU_OP_KV_APPEND: anynpu_op = 8;
/// `() → the state's shape`. STATE.
pub const ANYNPU_OP_STATE_READ: anynpu_op = 9;
/// `positions[T] → [T, keys]`: 0 where a query sees a row, HIDDEN where not. KEYS, HIDDEN, WINDOW?.
pub const ANYNPU_OP_CAUSAL_MASK: anynpu_op = 10;
/// `x → x`. AXIS.
pub const ANYNPU_OP_SOFTMAX: anynpu_op = 11;
/// `x → x`. FUNCTION.
pub const ANYNPU_OP_UNARY: anynpu_op = 12;
/// `x → x`. FUNCTION.
pub const ANYNPU_OP_ACTIVATION: anynpu_op = 13;
/// `gate, up → function(gate) · up`. FUNCTION.
pub const ANYNPU_OP_GATED_ACTIVATION: anynpu_op = 14;
/// `x → cap · tanh(x / cap)`. SOFT_CAP.
pub const ANYNPU_OP_SOFT_CAP: anynpu_op = 15;
/// `a, b → broadcast(a, b)`, as numpy does. FUNCTION.
pub const ANYNPU_OP_BINARY: anynpu_op = 16;
/// `condition, a, b → broadcast`: `a` where true.
pub const ANYNPU_OP_SELECT: anynpu_op = 17;
/// `data, indices → data.shape` with the axis replaced by the indices' shape. AXIS.
pub const ANYNPU_OP_GATHER: anynpu_op = 18;
/// `data, indices[n], updates → data` with the slices at the indices replaced; later ones win. AXIS.
pub const ANYNPU_OP_SCATTER: anynpu_op = 19;
/// `x → shape`. SHAPE.
pub const ANYNPU_OP_RESHAPE: anynpu_op = 20;
/// `x → x` with axes permuted. PERM.
pub const ANYNPU_OP_TRANSPOSE: anynpu_op = 21;
/// `x → shape`, as numpy broadcasts. SHAPE.
pub const ANYNPU_OP_BROADCAST: anynpu_op = 22;
/// `x → x[start..end:step]` along an axis. AXIS, START, END, STEP.
pub const ANYNPU_OP_SLICE: anynpu_op = 23;
/// `x₀, x₁, … → x` joined along an axis. AXIS.
pub const ANYNPU_OP_CONCAT: anynpu_op = 24;
/// `x → x₀, x₁, …`. AXIS, SIZES.
pub const ANYNPU_OP_SPLIT: anynpu_op = 25;
/// `x → x` reduced. FUNCTION, AXES, KEEP_DIMS.
pub const ANYNPU_OP_REDUCE: anynpu_op = 26;
/// `x → x` converted. TO.
pub const ANYNPU_OP_CAST: anynpu_op = 27;
/// `x, scale, zero_point → q`: `clamp(round(x / scale) + zero_point)`, half to even. TO, AXIS?.
pub const ANYNPU_OP_QUANTIZE: anynpu_op = 28;
/// `q, scale, zero_point → x`: `(q − zero_point) · scale`. AXIS?.
pub const ANYNPU_OP_DEQUANTIZE: anynpu_op = 29;
/// `x[…, N] → values[…, k], indices[…, k]`, largest first, ties by lower index. COUNT.
pub const ANYNPU_OP_TOP_K: anynpu_op = 30;
/// `x → indices` with the axis removed. AXIS.
pub const ANYNPU_OP_ARG_MAX: anynpu_op = 31;
/// `x[B, C, L], w[O, C / groups, K], bias[O]? → [B, O, L']`. STRIDE, PADDING, DILATION, GROUPS.
pub const ANYNPU_OP_CONV1D: anynpu_op = 32;
/// `x[B, C, H, W], w[O, C / groups, KH, KW], bias[O]? → [B, O, H', W']`. STRIDE, PADDING, DILATION, GROUPS.
pub const ANYNPU_OP_CONV2D: anynpu_op = 33;
/// `() → [length]`: AT, AT + 1, …, in I32. AT, LENGTH.
pub const ANYNPU_OP_IOTA: anynpu_op = 34;

/// Rotation of the pairs `(2i, 2i + 1)`.
pub const ANYNPU_ROPE_INTERLEAVED: i64 = 0;
/// Rotation of the pairs `(i, i + rotated / 2)`.
pub const ANYNPU_ROPE_HALF_SPLIT: i64 = 1;

/// Frequencies are `base ^ (-2 i / rotated)`. No parameters.
pub const ANYNPU_SCALING_NONE: i64 = 0;
/// Divided by a factor. Parameters: factor.
pub const ANYNPU_SCALING_LINEAR: i64 = 1;
/// YaRN (arXiv 2309.00071). Parameters: factor, original context, ext factor, attention factor, beta fast, beta slow.
pub const ANYNPU_SCALING_YARN: i64 = 2;
/// As Llama 3.1. Parameters: factor, low frequency factor, high frequency factor, original context.
pub const ANYNPU_SCALING_LLAMA3: i64 = 3;

/// `-x`.
pub const ANYNPU_UNARY_NEG: i64 = 0;
/// `|x|`.
pub const ANYNPU_UNARY_ABS: i64 = 1;
/// `eˣ`.
pub const ANYNPU_UNARY_EXP: i64 = 2;
/// Natural logarithm.
pub const ANYNPU_UNARY_LOG: i64 = 3;
/// `√x`.
pub const ANYNPU_UNARY_SQRT: i64 = 4;
/// `1 / √x`.
pub const ANYNPU_UNARY_RSQRT: i64 = 5;
/// `1 / x`.
pub const ANYNPU_UNARY_RECIPROCAL: i64 = 6;
/// Sine.
pub const ANYNPU_UNARY_SIN: i64 = 7;
/// Cosine.
pub const ANYNPU_UNARY_COS: i64 = 8;
/// Hyperbolic tangent.
pub const ANYNPU_UNARY_TANH: i64 = 9;
/// `1 / (1 + e⁻ˣ)`.
pub const ANYNPU_UNARY_SIGMOID: i64 = 10;
/// Error function.
pub const ANYNPU_UNARY_ERF: i64 = 11;
/// Largest whole number not above.
pub const ANYNPU_UNARY_FLOOR: i64 = 12;
/// Smallest whole number not below.
pub const ANYNPU_UNARY_CEIL: i64 = 13;
/// Nearest whole number, half to even.
pub const ANYNPU_UNARY_ROUND: i64 = 14;
/// Logical negation.
pub const ANYNPU_UNARY_NOT: i64 = 15;

/// `max(x, 0)`.
pub const ANYNPU_ACTIVATION_RELU: i64 = 0;
/// `x · sigmoid(x)`.
pub const ANYNPU_ACTIVATION_SILU: i64 = 1;
/// `x · Φ(x)`, with the error function.
pub const ANYNPU_ACTIVATION_GELU: i64 = 2;
/// `x / 2 · (1 + tanh(√(2 / π) · (x + 0.044715 x³)))`.
pub const ANYNPU_ACTIVATION_GELU_TANH: i64 = 3;
/// `x · sigmoid(1.702 x)`.
pub const ANYNPU_ACTIVATION_GELU_QUICK: i64 = 4;

/// `a + b`.
pub const ANYNPU_BINARY_ADD: i64 = 0;
/// `a - b`.
pub const ANYNPU_BINARY_SUB: i64 = 1;
/// `a · b`.
pub const ANYNPU_BINARY_MUL: i64 = 2;
/// `a / b`; of integers towards zero, and 0 where `b` is 0.
pub const ANYNPU_BINARY_DIV: i64 = 3;
/// `a` to the power of `b`.
pub const ANYNPU_BINARY_POW: i64 = 4;
/// The larger one; NaN if one is.
pub const ANYNPU_BINARY_MAX: i64 = 5;
/// The smaller one; NaN if one is.
pub const ANYNPU_BINARY_MIN: i64 = 6;
/// `a = b`; its result is Bool, as of those that follow.
pub const ANYNPU_BINARY_EQUAL: i64 = 7;
/// `a < b`.
pub const ANYNPU_BINARY_LESS: i64 = 8;
/// `a <= b`.
pub const ANYNPU_BINARY_LESS_EQUAL: i64 = 9;
/// `a > b`.
pub const ANYNPU_BINARY_GREATER: i64 = 10;
/// `a >= b`.
pub const ANYNPU_BINARY_GREATER_EQUAL: i64 = 11;
/// Both.
pub const ANYNPU_BINARY_AND: i64 = 12;
/// Either.
pub const ANYNPU_BINARY_OR: i64 = 13;

/// Sum.
pub const ANYNPU_REDUCE_SUM: i64 = 0;
/// Mean.
pub const ANYNPU_REDUCE_MEAN: i64 = 1;
/// The largest; NaN if one is.
pub const ANYNPU_REDUCE_MAX: i64 = 2;
/// The smallest; NaN if one is.
pub const ANYNPU_REDUCE_MIN: i64 = 3;
