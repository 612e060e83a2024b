//! The interface's numbers.

/// Numbers with their names.
macro_rules! codes {
    ($(#[$doc:meta])* $list:ident: $($name:ident = $value:literal,)+) => {
        $(pub const $name: i32 = $value;)+

        $(#[$doc])*
        pub const $list: &[(&str, i32)] = &[$((stringify!($name), $value)),+];
    };
}

codes! {
    /// Types of operands.
    OPERAND_TYPES:
    FLOAT32 = 0,
    INT32 = 1,
    UINT32 = 2,
    TENSOR_FLOAT32 = 3,
    TENSOR_INT32 = 4,
    TENSOR_QUANT8_ASYMM = 5,
    BOOL = 6,
    TENSOR_QUANT16_SYMM = 7,
    TENSOR_FLOAT16 = 8,
    TENSOR_BOOL8 = 9,
    FLOAT16 = 10,
    TENSOR_QUANT8_SYMM_PER_CHANNEL = 11,
    TENSOR_QUANT16_ASYMM = 12,
    TENSOR_QUANT8_SYMM = 13,
    TENSOR_QUANT8_ASYMM_SIGNED = 14,
    MODEL = 15,
}

codes! {
    /// Operations.
    OPERATIONS:
    ADD = 0,
    AVERAGE_POOL_2D = 1,
    CONCATENATION = 2,
    CONV_2D = 3,
    DEPTHWISE_CONV_2D = 4,
    DEPTH_TO_SPACE = 5,
    DEQUANTIZE = 6,
    EMBEDDING_LOOKUP = 7,
    FLOOR = 8,
    FULLY_CONNECTED = 9,
    HASHTABLE_LOOKUP = 10,
    L2_NORMALIZATION = 11,
    L2_POOL_2D = 12,
    LOCAL_RESPONSE_NORMALIZATION = 13,
    LOGISTIC = 14,
    LSH_PROJECTION = 15,
    LSTM = 16,
    MAX_POOL_2D = 17,
    MUL = 18,
    RELU = 19,
    RELU1 = 20,
    RELU6 = 21,
    RESHAPE = 22,
    RESIZE_BILINEAR = 23,
    RNN = 24,
    SOFTMAX = 25,
    SPACE_TO_DEPTH = 26,
    SVDF = 27,
    TANH = 28,
    BATCH_TO_SPACE_ND = 29,
    DIV = 30,
    MEAN = 31,
    PAD = 32,
    SPACE_TO_BATCH_ND = 33,
    SQUEEZE = 34,
    STRIDED_SLICE = 35,
    SUB = 36,
    TRANSPOSE = 37,
    ABS = 38,
    ARGMAX = 39,
    ARGMIN = 40,
    AXIS_ALIGNED_BBOX_TRANSFORM = 41,
    BIDIRECTIONAL_SEQUENCE_LSTM = 42,
    BIDIRECTIONAL_SEQUENCE_RNN = 43,
    BOX_WITH_NMS_LIMIT = 44,
    CAST = 45,
    CHANNEL_SHUFFLE = 46,
    DETECTION_POSTPROCESSING = 47,
    EQUAL = 48,
    EXP = 49,
    EXPAND_DIMS = 50,
    GATHER = 51,
    GENERATE_PROPOSALS = 52,
    GREATER = 53,
    GREATER_EQUAL = 54,
    GROUPED_CONV_2D = 55,
    HEATMAP_MAX_KEYPOINT = 56,
    INSTANCE_NORMALIZATION = 57,
    LESS = 58,
    LESS_EQUAL = 59,
    LOG = 60,
    LOGICAL_AND = 61,
    LOGICAL_NOT = 62,
    LOGICAL_OR = 63,
    LOG_SOFTMAX = 64,
    MAXIMUM = 65,
    MINIMUM = 66,
    NEG = 67,
    NOT_EQUAL = 68,
    PAD_V2 = 69,
    POW = 70,
    PRELU = 71,
    QUANTIZE = 72,
    QUANTIZED_16BIT_LSTM = 73,
    RANDOM_MULTINOMIAL = 74,
    REDUCE_ALL = 75,
    REDUCE_ANY = 76,
    REDUCE_MAX = 77,
    REDUCE_MIN = 78,
    REDUCE_PROD = 79,
    REDUCE_SUM = 80,
    ROI_ALIGN = 81,
    ROI_POOLING = 82,
    RSQRT = 83,
    SELECT = 84,
    SIN = 85,
    SLICE = 86,
    SPLIT = 87,
    SQRT = 88,
    TILE = 89,
    TOPK_V2 = 90,
    TRANSPOSE_CONV_2D = 91,
    UNIDIRECTIONAL_SEQUENCE_LSTM = 92,
    UNIDIRECTIONAL_SEQUENCE_RNN = 93,
    RESIZE_NEAREST_NEIGHBOR = 94,
    QUANTIZED_LSTM = 95,
    IF = 96,
    WHILE = 97,
    ELU = 98,
    HARD_SWISH = 99,
    FILL = 100,
    RANK = 101,
    BATCH_MATMUL = 102,
    PACK = 103,
    MIRROR_PAD = 104,
    REVERSE = 105,
}

codes! {
    /// Activations that operations end with.
    FUSES:
    FUSED_NONE = 0,
    FUSED_RELU = 1,
    FUSED_RELU1 = 2,
    FUSED_RELU6 = 3,
}

codes! {
    /// Paddings by scheme.
    PADDINGS:
    PADDING_SAME = 1,
    PADDING_VALID = 2,
}

codes! {
    /// What compilations are to prefer.
    PREFERENCES:
    PREFER_LOW_POWER = 0,
    PREFER_FAST_SINGLE_ANSWER = 1,
    PREFER_SUSTAINED_SPEED = 2,
}

codes! {
    /// Types of devices.
    DEVICE_TYPES:
    DEVICE_UNKNOWN = 0,
    DEVICE_OTHER = 1,
    DEVICE_CPU = 2,
    DEVICE_GPU = 3,
    DEVICE_ACCELERATOR = 4,
}

codes! {
    /// Results of functions.
    RESULTS:
    NO_ERROR = 0,
    OUT_OF_MEMORY = 1,
    INCOMPLETE = 2,
    UNEXPECTED_NULL = 3,
    BAD_DATA = 4,
    OP_FAILED = 5,
    BAD_STATE = 6,
    UNMAPPABLE = 7,
    OUTPUT_INSUFFICIENT_SIZE = 8,
    UNAVAILABLE_DEVICE = 9,
    MISSED_DEADLINE_TRANSIENT = 10,
    MISSED_DEADLINE_PERSISTENT = 11,
    RESOURCE_EXHAUSTED_TRANSIENT = 12,
    RESOURCE_EXHAUSTED_PERSISTENT = 13,
    DEAD_OBJECT = 14,
}

codes! {
    /// Durations that executions tell.
    DURATIONS:
    DURATION_ON_HARDWARE = 0,
    DURATION_IN_DRIVER = 1,
    FENCED_DURATION_ON_HARDWARE = 2,
    FENCED_DURATION_IN_DRIVER = 3,
}

codes! {
    /// Priorities of compilations.
    PRIORITIES:
    PRIORITY_LOW = 90,
    PRIORITY_MEDIUM = 100,
    PRIORITY_HIGH = 110,
}

/// Bytes of a constant up to which it is copied; larger ones must outlive the model.
pub const MAX_SIZE_OF_IMMEDIATELY_COPIED_VALUES: usize = 128;
/// Bytes of a caching token.
pub const BYTE_SIZE_OF_CACHE_TOKEN: usize = 32;

/// The name of number `code` in `list`, or the number itself.
pub fn name_of(list: &[(&'static str, i32)], code: i32) -> std::borrow::Cow<'static, str> {
    let known = list.iter().find(|(_, value)| *value == code);
    known.map_or_else(|| code.to_string().into(), |(name, _)| (*name).into())
}

#[cfg(test)]
mod tests;
