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
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_ndk() {
        let same = |list: &[(&str, i32)], theirs: &[(&str, i64)]| {
            let own: Vec<(&str, i64)> = list.iter().map(|(n, v)| (*n, i64::from(*v))).collect();
            assert_eq!(own, theirs);
        };
        same(
            OPERAND_TYPES,
            &[
                (
                    "FLOAT32",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_FLOAT32.0),
                ),
                (
                    "INT32",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_INT32.0),
                ),
                (
                    "UINT32",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_UINT32.0),
                ),
                (
                    "TENSOR_FLOAT32",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_TENSOR_FLOAT32.0),
                ),
                (
                    "TENSOR_INT32",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_TENSOR_INT32.0),
                ),
                (
                    "TENSOR_QUANT8_ASYMM",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_TENSOR_QUANT8_ASYMM.0),
                ),
                (
                    "BOOL",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_BOOL.0),
                ),
                (
                    "TENSOR_QUANT16_SYMM",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_TENSOR_QUANT16_SYMM.0),
                ),
                (
                    "TENSOR_FLOAT16",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_TENSOR_FLOAT16.0),
                ),
                (
                    "TENSOR_BOOL8",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_TENSOR_BOOL8.0),
                ),
                (
                    "FLOAT16",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_FLOAT16.0),
                ),
                (
                    "TENSOR_QUANT8_SYMM_PER_CHANNEL",
                    i64::from(
                        ndk_sys::OperandCode::ANEURALNETWORKS_TENSOR_QUANT8_SYMM_PER_CHANNEL.0,
                    ),
                ),
                (
                    "TENSOR_QUANT16_ASYMM",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_TENSOR_QUANT16_ASYMM.0),
                ),
                (
                    "TENSOR_QUANT8_SYMM",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_TENSOR_QUANT8_SYMM.0),
                ),
                (
                    "TENSOR_QUANT8_ASYMM_SIGNED",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_TENSOR_QUANT8_ASYMM_SIGNED.0),
                ),
                (
                    "MODEL",
                    i64::from(ndk_sys::OperandCode::ANEURALNETWORKS_MODEL.0),
                ),
            ],
        );
        same(
            OPERATIONS,
            &[
                (
                    "ADD",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_ADD.0),
                ),
                (
                    "AVERAGE_POOL_2D",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_AVERAGE_POOL_2D.0),
                ),
                (
                    "CONCATENATION",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_CONCATENATION.0),
                ),
                (
                    "CONV_2D",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_CONV_2D.0),
                ),
                (
                    "DEPTHWISE_CONV_2D",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_DEPTHWISE_CONV_2D.0),
                ),
                (
                    "DEPTH_TO_SPACE",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_DEPTH_TO_SPACE.0),
                ),
                (
                    "DEQUANTIZE",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_DEQUANTIZE.0),
                ),
                (
                    "EMBEDDING_LOOKUP",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_EMBEDDING_LOOKUP.0),
                ),
                (
                    "FLOOR",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_FLOOR.0),
                ),
                (
                    "FULLY_CONNECTED",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_FULLY_CONNECTED.0),
                ),
                (
                    "HASHTABLE_LOOKUP",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_HASHTABLE_LOOKUP.0),
                ),
                (
                    "L2_NORMALIZATION",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_L2_NORMALIZATION.0),
                ),
                (
                    "L2_POOL_2D",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_L2_POOL_2D.0),
                ),
                (
                    "LOCAL_RESPONSE_NORMALIZATION",
                    i64::from(
                        ndk_sys::OperationCode::ANEURALNETWORKS_LOCAL_RESPONSE_NORMALIZATION.0,
                    ),
                ),
                (
                    "LOGISTIC",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_LOGISTIC.0),
                ),
                (
                    "LSH_PROJECTION",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_LSH_PROJECTION.0),
                ),
                (
                    "LSTM",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_LSTM.0),
                ),
                (
                    "MAX_POOL_2D",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_MAX_POOL_2D.0),
                ),
                (
                    "MUL",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_MUL.0),
                ),
                (
                    "RELU",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_RELU.0),
                ),
                (
                    "RELU1",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_RELU1.0),
                ),
                (
                    "RELU6",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_RELU6.0),
                ),
                (
                    "RESHAPE",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_RESHAPE.0),
                ),
                (
                    "RESIZE_BILINEAR",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_RESIZE_BILINEAR.0),
                ),
                (
                    "RNN",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_RNN.0),
                ),
                (
                    "SOFTMAX",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_SOFTMAX.0),
                ),
                (
                    "SPACE_TO_DEPTH",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_SPACE_TO_DEPTH.0),
                ),
                (
                    "SVDF",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_SVDF.0),
                ),
                (
                    "TANH",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_TANH.0),
                ),
                (
                    "BATCH_TO_SPACE_ND",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_BATCH_TO_SPACE_ND.0),
                ),
                (
                    "DIV",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_DIV.0),
                ),
                (
                    "MEAN",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_MEAN.0),
                ),
                (
                    "PAD",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_PAD.0),
                ),
                (
                    "SPACE_TO_BATCH_ND",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_SPACE_TO_BATCH_ND.0),
                ),
                (
                    "SQUEEZE",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_SQUEEZE.0),
                ),
                (
                    "STRIDED_SLICE",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_STRIDED_SLICE.0),
                ),
                (
                    "SUB",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_SUB.0),
                ),
                (
                    "TRANSPOSE",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_TRANSPOSE.0),
                ),
                (
                    "ABS",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_ABS.0),
                ),
                (
                    "ARGMAX",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_ARGMAX.0),
                ),
                (
                    "ARGMIN",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_ARGMIN.0),
                ),
                (
                    "AXIS_ALIGNED_BBOX_TRANSFORM",
                    i64::from(
                        ndk_sys::OperationCode::ANEURALNETWORKS_AXIS_ALIGNED_BBOX_TRANSFORM.0,
                    ),
                ),
                (
                    "BIDIRECTIONAL_SEQUENCE_LSTM",
                    i64::from(
                        ndk_sys::OperationCode::ANEURALNETWORKS_BIDIRECTIONAL_SEQUENCE_LSTM.0,
                    ),
                ),
                (
                    "BIDIRECTIONAL_SEQUENCE_RNN",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_BIDIRECTIONAL_SEQUENCE_RNN.0),
                ),
                (
                    "BOX_WITH_NMS_LIMIT",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_BOX_WITH_NMS_LIMIT.0),
                ),
                (
                    "CAST",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_CAST.0),
                ),
                (
                    "CHANNEL_SHUFFLE",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_CHANNEL_SHUFFLE.0),
                ),
                (
                    "DETECTION_POSTPROCESSING",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_DETECTION_POSTPROCESSING.0),
                ),
                (
                    "EQUAL",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_EQUAL.0),
                ),
                (
                    "EXP",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_EXP.0),
                ),
                (
                    "EXPAND_DIMS",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_EXPAND_DIMS.0),
                ),
                (
                    "GATHER",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_GATHER.0),
                ),
                (
                    "GENERATE_PROPOSALS",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_GENERATE_PROPOSALS.0),
                ),
                (
                    "GREATER",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_GREATER.0),
                ),
                (
                    "GREATER_EQUAL",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_GREATER_EQUAL.0),
                ),
                (
                    "GROUPED_CONV_2D",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_GROUPED_CONV_2D.0),
                ),
                (
                    "HEATMAP_MAX_KEYPOINT",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_HEATMAP_MAX_KEYPOINT.0),
                ),
                (
                    "INSTANCE_NORMALIZATION",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_INSTANCE_NORMALIZATION.0),
                ),
                (
                    "LESS",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_LESS.0),
                ),
                (
                    "LESS_EQUAL",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_LESS_EQUAL.0),
                ),
                (
                    "LOG",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_LOG.0),
                ),
                (
                    "LOGICAL_AND",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_LOGICAL_AND.0),
                ),
                (
                    "LOGICAL_NOT",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_LOGICAL_NOT.0),
                ),
                (
                    "LOGICAL_OR",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_LOGICAL_OR.0),
                ),
                (
                    "LOG_SOFTMAX",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_LOG_SOFTMAX.0),
                ),
                (
                    "MAXIMUM",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_MAXIMUM.0),
                ),
                (
                    "MINIMUM",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_MINIMUM.0),
                ),
                (
                    "NEG",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_NEG.0),
                ),
                (
                    "NOT_EQUAL",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_NOT_EQUAL.0),
                ),
                (
                    "PAD_V2",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_PAD_V2.0),
                ),
                (
                    "POW",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_POW.0),
                ),
                (
                    "PRELU",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_PRELU.0),
                ),
                (
                    "QUANTIZE",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_QUANTIZE.0),
                ),
                (
                    "QUANTIZED_16BIT_LSTM",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_QUANTIZED_16BIT_LSTM.0),
                ),
                (
                    "RANDOM_MULTINOMIAL",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_RANDOM_MULTINOMIAL.0),
                ),
                (
                    "REDUCE_ALL",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_REDUCE_ALL.0),
                ),
                (
                    "REDUCE_ANY",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_REDUCE_ANY.0),
                ),
                (
                    "REDUCE_MAX",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_REDUCE_MAX.0),
                ),
                (
                    "REDUCE_MIN",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_REDUCE_MIN.0),
                ),
                (
                    "REDUCE_PROD",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_REDUCE_PROD.0),
                ),
                (
                    "REDUCE_SUM",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_REDUCE_SUM.0),
                ),
                (
                    "ROI_ALIGN",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_ROI_ALIGN.0),
                ),
                (
                    "ROI_POOLING",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_ROI_POOLING.0),
                ),
                (
                    "RSQRT",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_RSQRT.0),
                ),
                (
                    "SELECT",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_SELECT.0),
                ),
                (
                    "SIN",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_SIN.0),
                ),
                (
                    "SLICE",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_SLICE.0),
                ),
                (
                    "SPLIT",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_SPLIT.0),
                ),
                (
                    "SQRT",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_SQRT.0),
                ),
                (
                    "TILE",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_TILE.0),
                ),
                (
                    "TOPK_V2",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_TOPK_V2.0),
                ),
                (
                    "TRANSPOSE_CONV_2D",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_TRANSPOSE_CONV_2D.0),
                ),
                (
                    "UNIDIRECTIONAL_SEQUENCE_LSTM",
                    i64::from(
                        ndk_sys::OperationCode::ANEURALNETWORKS_UNIDIRECTIONAL_SEQUENCE_LSTM.0,
                    ),
                ),
                (
                    "UNIDIRECTIONAL_SEQUENCE_RNN",
                    i64::from(
                        ndk_sys::OperationCode::ANEURALNETWORKS_UNIDIRECTIONAL_SEQUENCE_RNN.0,
                    ),
                ),
                (
                    "RESIZE_NEAREST_NEIGHBOR",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_RESIZE_NEAREST_NEIGHBOR.0),
                ),
                (
                    "QUANTIZED_LSTM",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_QUANTIZED_LSTM.0),
                ),
                (
                    "IF",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_IF.0),
                ),
                (
                    "WHILE",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_WHILE.0),
                ),
                (
                    "ELU",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_ELU.0),
                ),
                (
                    "HARD_SWISH",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_HARD_SWISH.0),
                ),
                (
                    "FILL",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_FILL.0),
                ),
                (
                    "RANK",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_RANK.0),
                ),
                (
                    "BATCH_MATMUL",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_BATCH_MATMUL.0),
                ),
                (
                    "PACK",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_PACK.0),
                ),
                (
                    "MIRROR_PAD",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_MIRROR_PAD.0),
                ),
                (
                    "REVERSE",
                    i64::from(ndk_sys::OperationCode::ANEURALNETWORKS_REVERSE.0),
                ),
            ],
        );
        same(
            FUSES,
            &[
                (
                    "FUSED_NONE",
                    i64::from(ndk_sys::FuseCode::ANEURALNETWORKS_FUSED_NONE.0),
                ),
                (
                    "FUSED_RELU",
                    i64::from(ndk_sys::FuseCode::ANEURALNETWORKS_FUSED_RELU.0),
                ),
                (
                    "FUSED_RELU1",
                    i64::from(ndk_sys::FuseCode::ANEURALNETWORKS_FUSED_RELU1.0),
                ),
                (
                    "FUSED_RELU6",
                    i64::from(ndk_sys::FuseCode::ANEURALNETWORKS_FUSED_RELU6.0),
                ),
            ],
        );
        same(
            PADDINGS,
            &[
                (
                    "PADDING_SAME",
                    i64::from(ndk_sys::PaddingCode::ANEURALNETWORKS_PADDING_SAME.0),
                ),
                (
                    "PADDING_VALID",
                    i64::from(ndk_sys::PaddingCode::ANEURALNETWORKS_PADDING_VALID.0),
                ),
            ],
        );
        same(
            PREFERENCES,
            &[
                (
                    "PREFER_LOW_POWER",
                    i64::from(ndk_sys::PreferenceCode::ANEURALNETWORKS_PREFER_LOW_POWER.0),
                ),
                (
                    "PREFER_FAST_SINGLE_ANSWER",
                    i64::from(ndk_sys::PreferenceCode::ANEURALNETWORKS_PREFER_FAST_SINGLE_ANSWER.0),
                ),
                (
                    "PREFER_SUSTAINED_SPEED",
                    i64::from(ndk_sys::PreferenceCode::ANEURALNETWORKS_PREFER_SUSTAINED_SPEED.0),
                ),
            ],
        );
        same(
            DEVICE_TYPES,
            &[
                (
                    "DEVICE_UNKNOWN",
                    i64::from(ndk_sys::DeviceTypeCode::ANEURALNETWORKS_DEVICE_UNKNOWN.0),
                ),
                (
                    "DEVICE_OTHER",
                    i64::from(ndk_sys::DeviceTypeCode::ANEURALNETWORKS_DEVICE_OTHER.0),
                ),
                (
                    "DEVICE_CPU",
                    i64::from(ndk_sys::DeviceTypeCode::ANEURALNETWORKS_DEVICE_CPU.0),
                ),
                (
                    "DEVICE_GPU",
                    i64::from(ndk_sys::DeviceTypeCode::ANEURALNETWORKS_DEVICE_GPU.0),
                ),
                (
                    "DEVICE_ACCELERATOR",
                    i64::from(ndk_sys::DeviceTypeCode::ANEURALNETWORKS_DEVICE_ACCELERATOR.0),
                ),
            ],
        );
        same(
            RESULTS,
            &[
                (
                    "NO_ERROR",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_NO_ERROR.0),
                ),
                (
                    "OUT_OF_MEMORY",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_OUT_OF_MEMORY.0),
                ),
                (
                    "INCOMPLETE",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_INCOMPLETE.0),
                ),
                (
                    "UNEXPECTED_NULL",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_UNEXPECTED_NULL.0),
                ),
                (
                    "BAD_DATA",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_BAD_DATA.0),
                ),
                (
                    "OP_FAILED",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_OP_FAILED.0),
                ),
                (
                    "BAD_STATE",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_BAD_STATE.0),
                ),
                (
                    "UNMAPPABLE",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_UNMAPPABLE.0),
                ),
                (
                    "OUTPUT_INSUFFICIENT_SIZE",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_OUTPUT_INSUFFICIENT_SIZE.0),
                ),
                (
                    "UNAVAILABLE_DEVICE",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_UNAVAILABLE_DEVICE.0),
                ),
                (
                    "MISSED_DEADLINE_TRANSIENT",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_MISSED_DEADLINE_TRANSIENT.0),
                ),
                (
                    "MISSED_DEADLINE_PERSISTENT",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_MISSED_DEADLINE_PERSISTENT.0),
                ),
                (
                    "RESOURCE_EXHAUSTED_TRANSIENT",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_RESOURCE_EXHAUSTED_TRANSIENT.0),
                ),
                (
                    "RESOURCE_EXHAUSTED_PERSISTENT",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_RESOURCE_EXHAUSTED_PERSISTENT.0),
                ),
                (
                    "DEAD_OBJECT",
                    i64::from(ndk_sys::ResultCode::ANEURALNETWORKS_DEAD_OBJECT.0),
                ),
            ],
        );
        same(
            DURATIONS,
            &[
                (
                    "DURATION_ON_HARDWARE",
                    i64::from(ndk_sys::DurationCode::ANEURALNETWORKS_DURATION_ON_HARDWARE.0),
                ),
                (
                    "DURATION_IN_DRIVER",
                    i64::from(ndk_sys::DurationCode::ANEURALNETWORKS_DURATION_IN_DRIVER.0),
                ),
                (
                    "FENCED_DURATION_ON_HARDWARE",
                    i64::from(ndk_sys::DurationCode::ANEURALNETWORKS_FENCED_DURATION_ON_HARDWARE.0),
                ),
                (
                    "FENCED_DURATION_IN_DRIVER",
                    i64::from(ndk_sys::DurationCode::ANEURALNETWORKS_FENCED_DURATION_IN_DRIVER.0),
                ),
            ],
        );
        same(
            PRIORITIES,
            &[
                (
                    "PRIORITY_LOW",
                    i64::from(ndk_sys::PriorityCode::ANEURALNETWORKS_PRIORITY_LOW.0),
                ),
                (
                    "PRIORITY_MEDIUM",
                    i64::from(ndk_sys::PriorityCode::ANEURALNETWORKS_PRIORITY_MEDIUM.0),
                ),
                (
                    "PRIORITY_HIGH",
                    i64::from(ndk_sys::PriorityCode::ANEURALNETWORKS_PRIORITY_HIGH.0),
                ),
            ],
        );
        let copied = ndk_sys::ANEURALNETWORKS_MAX_SIZE_OF_IMMEDIATELY_COPIED_VALUES;
        assert_eq!(MAX_SIZE_OF_IMMEDIATELY_COPIED_VALUES, copied as usize);
        let token = ndk_sys::ANEURALNETWORKS_BYTE_SIZE_OF_CACHE_TOKEN;
        assert_eq!(BYTE_SIZE_OF_CACHE_TOKEN, token as usize);
        let levels = [
            ndk_sys::FeatureLevelCode::ANEURALNETWORKS_FEATURE_LEVEL_1,
            ndk_sys::FeatureLevelCode::ANEURALNETWORKS_FEATURE_LEVEL_2,
            ndk_sys::FeatureLevelCode::ANEURALNETWORKS_FEATURE_LEVEL_3,
            ndk_sys::FeatureLevelCode::ANEURALNETWORKS_FEATURE_LEVEL_4,
            ndk_sys::FeatureLevelCode::ANEURALNETWORKS_FEATURE_LEVEL_5,
            ndk_sys::FeatureLevelCode::ANEURALNETWORKS_FEATURE_LEVEL_6,
            ndk_sys::FeatureLevelCode::ANEURALNETWORKS_FEATURE_LEVEL_7,
            ndk_sys::FeatureLevelCode::ANEURALNETWORKS_FEATURE_LEVEL_8,
        ];
        for (own, theirs) in crate::FeatureLevel::ALL.iter().zip(levels) {
            assert_eq!(own.number(), i64::from(theirs.0));
        }
    }
}
