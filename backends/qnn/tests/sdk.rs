//! The declarations here beside those that bindgen makes of an SDK's headers. Compiled by `check-sdk.sh` only.
#![cfg(feature = "check-sdk")]

use std::mem::{offset_of, size_of};

use anynpu_qnn::sys;

#[allow(
    non_upper_case_globals,
    non_camel_case_types,
    non_snake_case,
    dead_code,
    missing_docs,
    unsafe_code,
    clippy::all
)]
mod sdk {
    include!(env!("ANYNPU_QNN_BINDINGS"));
}

/// Sizes of two structures, and where members are: `theirs = ours`.
macro_rules! same {
    ($theirs:ident, $ours:ident, $($their:ident = $our:ident),* $(,)?) => {{
        let found = (size_of::<sdk::$theirs>(), [$(offset_of!(sdk::$theirs, $their)),*]);
        let declared = (size_of::<sys::$ours>(), [$(offset_of!(sys::$ours, $our)),*]);
        assert_eq!(found, declared, concat!(stringify!($theirs), ": ", $(stringify!($their), " "),*));
    }};
}

/// Where members are, of structures that are declared in part.
macro_rules! begins {
    ($theirs:ident, $ours:ident, $($their:ident = $our:ident),* $(,)?) => {{
        let found = [$(offset_of!(sdk::$theirs, $their)),*];
        let declared = [$(offset_of!(sys::$ours, $our)),*];
        assert_eq!(found, declared, concat!(stringify!($theirs), ": ", $(stringify!($their), " "),*));
    }};
}

#[test]
fn structures_are_as_the_sdk_declares_them() {
    same!(
        Qnn_ScaleOffset_t,
        ScaleOffset,
        scale = scale,
        offset = offset
    );
    same!(
        Qnn_AxisScaleOffset_t,
        AxisScaleOffset,
        axis = axis,
        numScaleOffsets = count
    );
    same!(
        Qnn_BwAxisScaleOffset_t,
        BwAxisScaleOffset,
        bitwidth = bits,
        axis = axis,
        numElements = count,
        scales = scales,
        offsets = offsets,
    );
    same!(
        Qnn_BlockEncoding_t,
        BlockEncoding,
        blockSize = block,
        scaleOffset = scales
    );
    same!(
        Qnn_BlockwiseExpansion_t,
        BlockwiseExpansion,
        axis = axis,
        scaleOffsets = scales,
        numBlocksPerAxis = blocks_per_channel,
        blockScaleBitwidth = factor_bits,
        blockScaleStorageType = factor_type,
    );
    same!(
        Qnn_QuantizeParams_t,
        QuantizeParams,
        encodingDefinition = definition,
        quantizationEncoding = kind,
    );
    same!(
        Qnn_TensorV2_t,
        TensorV2,
        id = id,
        name = name,
        type_ = kind,
        dataFormat = data_format,
        dataType = data_type,
        quantizeParams = quantize,
        rank = rank,
        dimensions = dimensions,
        memType = memory_type,
        isDynamicDimensions = is_dynamic,
        sparseParams = sparse,
        isProduced = is_produced,
    );
    same!(Qnn_Tensor_t, Tensor, version = version);
    same!(Qnn_Scalar_t, Scalar, dataType = data_type);
    same!(Qnn_Param_t, Param, paramType = kind, name = name);
    same!(Qnn_OpConfig_t, OpConfig, version = version);
    same!(
        QnnBackend_OperationName_t,
        OpName,
        packageName = package,
        name = name,
        target = target
    );
    begins!(
        Qnn_MemDescriptor_t,
        MemoryDescriptor,
        memShape = shape,
        dataType = data_type,
        memType = kind
    );
}

#[test]
fn configurations_are_as_the_sdk_declares_them() {
    same!(QnnDevice_Config_t, DeviceConfig, option = option);
    same!(QnnContext_Config_t, ContextConfig, option = option);
    same!(QnnGraph_Config_t, GraphConfig, option = option);
    same!(
        QnnHtpContext_GroupRegistration_t,
        HtpContextGroup,
        firstGroupHandle = first,
        maxSpillFillBuffer = spill_bytes,
    );
    begins!(
        QnnHtpContext_CustomConfig_t,
        HtpContextConfig,
        option = option
    );
    same!(
        QnnHtpPerfInfrastructure_DcvsV3_t,
        DcvsV3,
        contextId = context,
        setDcvsEnable = set_dcvs,
        dcvsEnable = dcvs,
        powerMode = mode,
        setSleepLatency = set_sleep_latency,
        sleepLatency = sleep_latency,
        setSleepDisable = set_sleep_disable,
        sleepDisable = sleep_disable,
        setBusParams = set_bus,
        busVoltageCornerMin = bus_min,
        busVoltageCornerTarget = bus_target,
        busVoltageCornerMax = bus_max,
        setCoreParams = set_core,
        coreVoltageCornerMin = core_min,
        coreVoltageCornerTarget = core_target,
        coreVoltageCornerMax = core_max,
    );
    begins!(
        QnnHtpPerfInfrastructure_PowerConfig_t,
        PowerConfig,
        option = option
    );
}

#[test]
fn functions_stand_where_the_sdk_has_them() {
    begins!(
        QnnInterface_t,
        Interface,
        backendId = backend,
        providerName = name,
        apiVersion = core,
    );
    let table = offset_of!(sys::Interface, table);
    assert_eq!(offset_of!(sdk::QnnInterface_t, __bindgen_anon_1), table);
    // the newest table only has more at its end
    assert!(size_of::<sdk::QnnInterface_ImplementationV2_t>() >= size_of::<sys::Table>());
    macro_rules! slots {
        ($($their:ident = $our:ident),* $(,)?) => {
            $(assert_eq!(
                offset_of!(sdk::QnnInterface_ImplementationV2_t, $their),
                offset_of!(sys::Table, $our),
                stringify!($their),
            );)*
        };
    }
    slots!(
        propertyHasCapability = property_has_capability,
        backendCreate = backend_create,
        backendGetBuildId = backend_get_build_id,
        backendGetSupportedOperations = backend_get_supported_operations,
        backendValidateOpConfig = backend_validate_op_config,
        backendFree = backend_free,
        contextCreate = context_create,
        contextGetBinarySize = context_get_binary_size,
        contextGetBinary = context_get_binary,
        contextCreateFromBinary = context_create_from_binary,
        contextFree = context_free,
        graphCreate = graph_create,
        graphAddNode = graph_add_node,
        graphFinalize = graph_finalize,
        graphRetrieve = graph_retrieve,
        graphExecute = graph_execute,
        tensorCreateGraphTensor = tensor_create_graph_tensor,
        logCreate = log_create,
        logFree = log_free,
        memRegister = mem_register,
        memDeRegister = mem_de_register,
        deviceGetInfrastructure = device_get_infrastructure,
        deviceCreate = device_create,
        deviceFree = device_free,
        errorGetMessage = error_get_message,
    );
}
