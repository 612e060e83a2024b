//! Numbers of the interface, by its documentation.

pub const NO_ERROR: i32 = 0;
pub const UNEXPECTED_NULL: i32 = 3;
pub const BAD_DATA: i32 = 4;
pub const OP_FAILED: i32 = 5;
pub const BAD_STATE: i32 = 6;
pub const UNMAPPABLE: i32 = 7;
pub const OUTPUT_INSUFFICIENT_SIZE: i32 = 8;
pub const MISSED_DEADLINE_PERSISTENT: i32 = 11;
pub const RESOURCE_EXHAUSTED_TRANSIENT: i32 = 12;
pub const DEAD_OBJECT: i32 = 14;

pub const FLOAT32: i32 = 0;
pub const INT32: i32 = 1;
pub const UINT32: i32 = 2;
pub const TENSOR_FLOAT32: i32 = 3;
pub const TENSOR_INT32: i32 = 4;
pub const TENSOR_QUANT8_ASYMM: i32 = 5;
pub const BOOL: i32 = 6;
pub const TENSOR_QUANT16_SYMM: i32 = 7;
pub const TENSOR_FLOAT16: i32 = 8;
pub const TENSOR_BOOL8: i32 = 9;
pub const FLOAT16: i32 = 10;
pub const TENSOR_QUANT8_SYMM_PER_CHANNEL: i32 = 11;
pub const TENSOR_QUANT16_ASYMM: i32 = 12;
pub const TENSOR_QUANT8_SYMM: i32 = 13;
pub const TENSOR_QUANT8_ASYMM_SIGNED: i32 = 14;

/// The operations that it computes, by their numbers.
pub const OPERATIONS: &[(&str, i32)] = &[
    ("ADD", 0),
    ("CONCATENATION", 2),
    ("CONV_2D", 3),
    ("DEQUANTIZE", 6),
    ("EMBEDDING_LOOKUP", 7),
    ("FLOOR", 8),
    ("FULLY_CONNECTED", 9),
    ("LOGISTIC", 14),
    ("MUL", 18),
    ("RELU", 19),
    ("RESHAPE", 22),
    ("SOFTMAX", 25),
    ("TANH", 28),
    ("DIV", 30),
    ("MEAN", 31),
    ("PAD", 32),
    ("SQUEEZE", 34),
    ("STRIDED_SLICE", 35),
    ("SUB", 36),
    ("TRANSPOSE", 37),
    ("ABS", 38),
    ("ARGMAX", 39),
    ("ARGMIN", 40),
    ("CAST", 45),
    ("EQUAL", 48),
    ("EXP", 49),
    ("EXPAND_DIMS", 50),
    ("GATHER", 51),
    ("GREATER", 53),
    ("GREATER_EQUAL", 54),
    ("LESS", 58),
    ("LESS_EQUAL", 59),
    ("LOG", 60),
    ("LOGICAL_AND", 61),
    ("LOGICAL_NOT", 62),
    ("LOGICAL_OR", 63),
    ("LOG_SOFTMAX", 64),
    ("MAXIMUM", 65),
    ("MINIMUM", 66),
    ("NEG", 67),
    ("NOT_EQUAL", 68),
    ("POW", 70),
    ("QUANTIZE", 72),
    ("REDUCE_MAX", 77),
    ("REDUCE_MIN", 78),
    ("REDUCE_SUM", 80),
    ("RSQRT", 83),
    ("SELECT", 84),
    ("SIN", 85),
    ("SLICE", 86),
    ("SPLIT", 87),
    ("SQRT", 88),
    ("TILE", 89),
    ("TOPK_V2", 90),
    ("FILL", 100),
    ("BATCH_MATMUL", 102),
    ("PACK", 103),
];

/// The number of operation `name`, if it is computed.
pub fn operation(name: &str) -> Option<i32> {
    let known = OPERATIONS.iter().find(|(n, _)| *n == name);
    known.map(|(_, code)| *code)
}

/// The name of operation `code`, if it is computed.
pub fn operation_name(code: i32) -> Option<&'static str> {
    let known = OPERATIONS.iter().find(|(_, c)| *c == code);
    known.map(|(name, _)| *name)
}
