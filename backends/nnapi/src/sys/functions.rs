//! The runtime's functions, each looked for by its name.

use std::ffi::{c_char, c_int, c_void};

use anynpu_hal::{Library, LibraryError};

use super::{
    Burst, Compilation, Device, Event, Execution, Memory, MemoryDesc, Model, OperandType,
    SymmPerChannelQuantParams,
};

/// Hands the list of functions to a macro: the API level that brought each, its name here, its symbol, its type.
macro_rules! with_functions {
    ($callback:ident) => {
        $callback! {
            27 memory_create_from_fd ANeuralNetworksMemory_createFromFd(
                size: usize,
                protect: c_int,
                fd: c_int,
                offset: usize,
                memory: *mut *mut Memory,
            ) -> c_int;
            27 memory_free ANeuralNetworksMemory_free(memory: *mut Memory) -> ();
            27 model_create ANeuralNetworksModel_create(model: *mut *mut Model) -> c_int;
            27 model_free ANeuralNetworksModel_free(model: *mut Model) -> ();
            27 model_finish ANeuralNetworksModel_finish(model: *mut Model) -> c_int;
            27 model_add_operand ANeuralNetworksModel_addOperand(model: *mut Model, ty: *const OperandType) -> c_int;
            27 model_set_operand_value ANeuralNetworksModel_setOperandValue(
                model: *mut Model,
                index: i32,
                buffer: *const c_void,
                length: usize,
            ) -> c_int;
            27 model_set_operand_value_from_memory ANeuralNetworksModel_setOperandValueFromMemory(
                model: *mut Model,
                index: i32,
                memory: *const Memory,
                offset: usize,
                length: usize,
            ) -> c_int;
            27 model_add_operation ANeuralNetworksModel_addOperation(
                model: *mut Model,
                ty: i32,
                input_count: u32,
                inputs: *const u32,
                output_count: u32,
                outputs: *const u32,
            ) -> c_int;
            27 model_identify_inputs_and_outputs ANeuralNetworksModel_identifyInputsAndOutputs(
                model: *mut Model,
                input_count: u32,
                inputs: *const u32,
                output_count: u32,
                outputs: *const u32,
            ) -> c_int;
            27 compilation_create ANeuralNetworksCompilation_create(
                model: *mut Model,
                compilation: *mut *mut Compilation,
            ) -> c_int;
            27 compilation_free ANeuralNetworksCompilation_free(compilation: *mut Compilation) -> ();
            27 compilation_set_preference ANeuralNetworksCompilation_setPreference(
                compilation: *mut Compilation,
                preference: i32,
            ) -> c_int;
            27 compilation_finish ANeuralNetworksCompilation_finish(compilation: *mut Compilation) -> c_int;
            27 execution_create ANeuralNetworksExecution_create(
                compilation: *mut Compilation,
                execution: *mut *mut Execution,
            ) -> c_int;
            27 execution_free ANeuralNetworksExecution_free(execution: *mut Execution) -> ();
            27 execution_set_input ANeuralNetworksExecution_setInput(
                execution: *mut Execution,
                index: i32,
                ty: *const OperandType,
                buffer: *const c_void,
                length: usize,
            ) -> c_int;
            27 execution_set_input_from_memory ANeuralNetworksExecution_setInputFromMemory(
                execution: *mut Execution,
                index: i32,
                ty: *const OperandType,
                memory: *const Memory,
                offset: usize,
                length: usize,
            ) -> c_int;
            27 execution_set_output ANeuralNetworksExecution_setOutput(
                execution: *mut Execution,
                index: i32,
                ty: *const OperandType,
                buffer: *mut c_void,
                length: usize,
            ) -> c_int;
            27 execution_set_output_from_memory ANeuralNetworksExecution_setOutputFromMemory(
                execution: *mut Execution,
                index: i32,
                ty: *const OperandType,
                memory: *const Memory,
                offset: usize,
                length: usize,
            ) -> c_int;
            27 execution_start_compute ANeuralNetworksExecution_startCompute(
                execution: *mut Execution,
                event: *mut *mut Event,
            ) -> c_int;
            27 event_wait ANeuralNetworksEvent_wait(event: *mut Event) -> c_int;
            27 event_free ANeuralNetworksEvent_free(event: *mut Event) -> ();
            28 model_relax_computation_float32_to_float16 ANeuralNetworksModel_relaxComputationFloat32toFloat16(
                model: *mut Model,
                allow: bool,
            ) -> c_int;
            29 get_device_count ANeuralNetworks_getDeviceCount(num_devices: *mut u32) -> c_int;
            29 get_device ANeuralNetworks_getDevice(dev_index: u32, device: *mut *mut Device) -> c_int;
            29 device_get_name ANeuralNetworksDevice_getName(
                device: *const Device,
                name: *mut *const c_char,
            ) -> c_int;
            29 device_get_version ANeuralNetworksDevice_getVersion(
                device: *const Device,
                version: *mut *const c_char,
            ) -> c_int;
            29 device_get_type ANeuralNetworksDevice_getType(device: *const Device, ty: *mut i32) -> c_int;
            29 device_get_feature_level ANeuralNetworksDevice_getFeatureLevel(
                device: *const Device,
                feature_level: *mut i64,
            ) -> c_int;
            29 model_get_supported_operations_for_devices ANeuralNetworksModel_getSupportedOperationsForDevices(
                model: *const Model,
                devices: *const *const Device,
                num_devices: u32,
                supported_ops: *mut bool,
            ) -> c_int;
            29 compilation_create_for_devices ANeuralNetworksCompilation_createForDevices(
                model: *mut Model,
                devices: *const *const Device,
                num_devices: u32,
                compilation: *mut *mut Compilation,
            ) -> c_int;
            29 compilation_set_caching ANeuralNetworksCompilation_setCaching(
                compilation: *mut Compilation,
                cache_dir: *const c_char,
                token: *const u8,
            ) -> c_int;
            29 execution_compute ANeuralNetworksExecution_compute(execution: *mut Execution) -> c_int;
            29 execution_get_output_operand_rank ANeuralNetworksExecution_getOutputOperandRank(
                execution: *mut Execution,
                index: i32,
                rank: *mut u32,
            ) -> c_int;
            29 execution_get_output_operand_dimensions ANeuralNetworksExecution_getOutputOperandDimensions(
                execution: *mut Execution,
                index: i32,
                dimensions: *mut u32,
            ) -> c_int;
            29 execution_set_measure_timing ANeuralNetworksExecution_setMeasureTiming(
                execution: *mut Execution,
                measure: bool,
            ) -> c_int;
            29 execution_get_duration ANeuralNetworksExecution_getDuration(
                execution: *const Execution,
                duration_code: i32,
                duration: *mut u64,
            ) -> c_int;
            29 burst_create ANeuralNetworksBurst_create(
                compilation: *mut Compilation,
                burst: *mut *mut Burst,
            ) -> c_int;
            29 burst_free ANeuralNetworksBurst_free(burst: *mut Burst) -> ();
            29 execution_burst_compute ANeuralNetworksExecution_burstCompute(
                execution: *mut Execution,
                burst: *mut Burst,
            ) -> c_int;
            29 memory_create_from_a_hardware_buffer ANeuralNetworksMemory_createFromAHardwareBuffer(
                ahwb: *const c_void,
                memory: *mut *mut Memory,
            ) -> c_int;
            29 model_set_operand_symm_per_channel_quant_params ANeuralNetworksModel_setOperandSymmPerChannelQuantParams(
                model: *mut Model,
                index: i32,
                channel_quant: *const SymmPerChannelQuantParams,
            ) -> c_int;
            30 memory_desc_create ANeuralNetworksMemoryDesc_create(desc: *mut *mut MemoryDesc) -> c_int;
            30 memory_desc_free ANeuralNetworksMemoryDesc_free(desc: *mut MemoryDesc) -> ();
            30 memory_desc_add_input_role ANeuralNetworksMemoryDesc_addInputRole(
                desc: *mut MemoryDesc,
                compilation: *const Compilation,
                index: u32,
                frequency: f32,
            ) -> c_int;
            30 memory_desc_add_output_role ANeuralNetworksMemoryDesc_addOutputRole(
                desc: *mut MemoryDesc,
                compilation: *const Compilation,
                index: u32,
                frequency: f32,
            ) -> c_int;
            30 memory_desc_set_dimensions ANeuralNetworksMemoryDesc_setDimensions(
                desc: *mut MemoryDesc,
                rank: u32,
                dimensions: *const u32,
            ) -> c_int;
            30 memory_desc_finish ANeuralNetworksMemoryDesc_finish(desc: *mut MemoryDesc) -> c_int;
            30 memory_create_from_desc ANeuralNetworksMemory_createFromDesc(
                desc: *const MemoryDesc,
                memory: *mut *mut Memory,
            ) -> c_int;
            30 memory_copy ANeuralNetworksMemory_copy(src: *const Memory, dst: *const Memory) -> c_int;
            30 device_wait ANeuralNetworksDevice_wait(device: *const Device) -> c_int;
            30 compilation_set_priority ANeuralNetworksCompilation_setPriority(
                compilation: *mut Compilation,
                priority: c_int,
            ) -> c_int;
            30 compilation_set_timeout ANeuralNetworksCompilation_setTimeout(
                compilation: *mut Compilation,
                duration: u64,
            ) -> c_int;
            30 execution_set_timeout ANeuralNetworksExecution_setTimeout(
                execution: *mut Execution,
                duration: u64,
            ) -> c_int;
            30 execution_set_loop_timeout ANeuralNetworksExecution_setLoopTimeout(
                execution: *mut Execution,
                duration: u64,
            ) -> c_int;
            30 model_set_operand_value_from_model ANeuralNetworksModel_setOperandValueFromModel(
                model: *mut Model,
                index: i32,
                value: *const Model,
            ) -> c_int;
            30 event_create_from_sync_fence_fd ANeuralNetworksEvent_createFromSyncFenceFd(
                sync_fence_fd: c_int,
                event: *mut *mut Event,
            ) -> c_int;
            30 event_get_sync_fence_fd ANeuralNetworksEvent_getSyncFenceFd(
                event: *const Event,
                sync_fence_fd: *mut c_int,
            ) -> c_int;
            30 execution_start_compute_with_dependencies ANeuralNetworksExecution_startComputeWithDependencies(
                execution: *mut Execution,
                dependencies: *const *const Event,
                num_dependencies: u32,
                duration: u64,
                event: *mut *mut Event,
            ) -> c_int;
            30 get_default_loop_timeout ANeuralNetworks_getDefaultLoopTimeout() -> u64;
            30 get_maximum_loop_timeout ANeuralNetworks_getMaximumLoopTimeout() -> u64;
            31 get_runtime_feature_level ANeuralNetworks_getRuntimeFeatureLevel() -> i64;
            31 execution_set_reusable ANeuralNetworksExecution_setReusable(
                execution: *mut Execution,
                reusable: bool,
            ) -> c_int;
            31 execution_enable_input_and_output_padding ANeuralNetworksExecution_enableInputAndOutputPadding(
                execution: *mut Execution,
                enable: bool,
            ) -> c_int;
            31 compilation_get_preferred_memory_alignment_for_input ANeuralNetworksCompilation_getPreferredMemoryAlignmentForInput(
                compilation: *const Compilation,
                index: u32,
                alignment: *mut u32,
            ) -> c_int;
            31 compilation_get_preferred_memory_padding_for_input ANeuralNetworksCompilation_getPreferredMemoryPaddingForInput(
                compilation: *const Compilation,
                index: u32,
                padding: *mut u32,
            ) -> c_int;
            31 compilation_get_preferred_memory_alignment_for_output ANeuralNetworksCompilation_getPreferredMemoryAlignmentForOutput(
                compilation: *const Compilation,
                index: u32,
                alignment: *mut u32,
            ) -> c_int;
            31 compilation_get_preferred_memory_padding_for_output ANeuralNetworksCompilation_getPreferredMemoryPaddingForOutput(
                compilation: *const Compilation,
                index: u32,
                padding: *mut u32,
            ) -> c_int;
        }
    };
}

macro_rules! declare {
    ($($level:literal $name:ident $symbol:ident($($arg:ident: $ty:ty),* $(,)?) -> $result:ty;)+) => {
        /// The functions that a runtime has. One that is not there is a feature that it lacks.
        #[derive(Clone, Copy, Debug)]
        pub struct Functions {
            $(pub $name: Option<unsafe extern "C" fn($($arg: $ty),*) -> $result>,)+
        }

        impl Functions {
            /// Symbols of all functions, with the API level that brought each.
            pub const ALL: &[(&str, i64)] = &[$((stringify!($symbol), $level)),+];

            /// What `library` has of them; `path` is what errors call it.
            ///
            /// # Errors
            /// It lacks one of those that every runtime has: it is another library.
            ///
            /// # Safety
            /// Symbols of these names in it, if there are, are these functions.
            pub unsafe fn load(library: &Library, path: &str) -> Result<Functions, LibraryError> {
                Ok(Functions {
                    $($name: {
                        // SAFETY: by the contract, the type is the function's.
                        let found = unsafe { library.symbol(path, stringify!($symbol)) };
                        match found {
                            Ok(function) => Some(function),
                            Err(e) if $level == FIRST => return Err(e),
                            Err(_) => None,
                        }
                    },)+
                })
            }
        }
    };
}

/// The API level of the first runtimes.
const FIRST: i64 = 27;

with_functions!(declare);

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of a function's arguments, then of its result.
    trait Signature {
        fn sizes() -> Vec<usize>;
    }

    macro_rules! signature {
        ($($arg:ident)*) => {
            impl<R $(, $arg)*> Signature for unsafe extern "C" fn($($arg),*) -> R {
                fn sizes() -> Vec<usize> {
                    vec![$(size_of::<$arg>(),)* size_of::<R>()]
                }
            }
        };
    }
    signature!();
    signature!(A);
    signature!(A B);
    signature!(A B C);
    signature!(A B C D);
    signature!(A B C D E);
    signature!(A B C D E F);

    /// Of a declaration: it is named, never called, as there is no library to call.
    fn declared<F: Signature>(_: impl FnOnce() -> F) -> Vec<usize> {
        F::sizes()
    }

    macro_rules! placeholder {
        ($arg:ident) => {
            _
        };
    }

    macro_rules! compare {
        ($($level:literal $name:ident $symbol:ident($($arg:ident: $ty:ty),* $(,)?) -> $result:ty;)+) => {
            $(
                let theirs = declared(|| {
                    ndk_sys::$symbol as unsafe extern "C" fn($(placeholder!($arg)),*) -> _
                });
                let own = <unsafe extern "C" fn($($ty),*) -> $result as Signature>::sizes();
                assert_eq!(own, theirs, stringify!($symbol));
            )+
        };
    }

    #[test]
    fn functions_have_the_arguments_of_the_ndk() {
        with_functions!(compare);
        assert_eq!(Functions::ALL.len(), 69);
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn another_library_is_told_from_a_runtime() {
        // SAFETY: the C library's own part for mathematics has none of the symbols.
        let found = unsafe {
            let library = Library::open("libm.so.6".as_ref()).unwrap();
            Functions::load(&library, "libm.so.6")
        };
        let told = found.unwrap_err().to_string();
        assert_eq!(
            told,
            "libm.so.6 has no 'ANeuralNetworksMemory_createFromFd'"
        );
    }
}
