//! Sizes and offsets of what was published, where pointers have 64 bits. A line here is never changed: a structure that
//! grows gets more members at its end, and a larger size.

use core::mem::offset_of;

use crate::*;

/// Size, alignment and the offset of each member.
macro_rules! layout {
    ($type:ident: $size:literal, $align:literal { $($member:ident $offset:literal,)* }) => {
        assert!(size_of::<$type>() == $size && align_of::<$type>() == $align);
        $(assert!(offset_of!($type, $member) == $offset);)*
    };
}

const _: () = {
    layout!(anynpu_text: 16, 8 { data 0, length 8, });
    layout!(anynpu_dim: 8, 4 { is_symbol 0, size 4, });
    layout!(anynpu_attribute_value: 8, 8 {});
    layout!(anynpu_attribute: 24, 8 { key 0, kind 4, count 8, value 16, });
    layout!(anynpu_value: 40, 8 { name 0, dtype 16, rank 20, dims 24, source 32, index 36, });
    layout!(anynpu_node: 80, 8 { name 0, op 16, reserved 20, inputs 24, input_count 32, outputs 40, output_count 48, attributes 56, attribute_count 64, attribute_stride 72, });
    layout!(anynpu_state: 40, 8 { name 0, dtype 16, rank 20, dims 24, axis 32, reserved 36, });
    layout!(anynpu_weight: 56, 8 { name 0, value 16, dtype 20, data 24, length 32, fd 40, is_constant 44, offset 48, });
    layout!(anynpu_graph: 152, 8 { struct_size 0, op_set 4, name 8, values 24, value_count 32, value_stride 40, nodes 48, node_count 56, node_stride 64, states 72, state_count 80, state_stride 88, weights 96, weight_count 104, weight_stride 112, inputs 120, input_count 128, outputs 136, output_count 144, });
    layout!(anynpu_message: 48, 8 { struct_size 0, reserved 4, text 8, capacity 16, length 24, vendor_code 32, bytes 40, });
    layout!(anynpu_point: 16, 8 { id 0, generation 8, });
    layout!(anynpu_host: 64, 8 { struct_size 0, major 4, minor 6, context 8, log 16, signal 24, now_ns 32, allocate 40, release 48, digest 56, });
    layout!(anynpu_rate: 16, 8 { dtype 0, reserved 4, operations_per_second 8, });
    layout!(anynpu_device_info: 176, 8 { struct_size 0, kind 4, name 8, description 24, op_set 40, states 44, features 48, compute 56, compute_count 64, weights 72, weight_count 80, memory_limit 88, tokens 96, token_count 104, capacities 112, capacity_count 120, rates 128, rate_count 136, rate_stride 144, bytes_per_second 152, dispatch_us 160, busy_watts 168, });
    layout!(anynpu_option: 32, 8 { name 0, value 16, });
    layout!(anynpu_open_request: 72, 8 { struct_size 0, threads 4, name 8, target 24, power 40, reserved 44, options 48, option_count 56, option_stride 64, });
    layout!(anynpu_extent: 8, 4 { exact 0, limit 4, });
    layout!(anynpu_entry: 40, 8 { name 0, graph 16, extents 24, extent_count 32, });
    layout!(anynpu_compile_request: 80, 8 { struct_size 0, reserved 4, entries 8, entry_count 16, entry_stride 24, options 32, option_count 40, option_stride 48, context 56, progress 64, refuse 72, });
    layout!(anynpu_memory_need: 40, 8 { struct_size 0, reserved 4, resident 8, in_place 16, scratch 24, transient 32, });
    layout!(anynpu_buffer_request: 40, 8 { struct_size 0, kind 4, name 8, bytes 24, align 32, });
    layout!(anynpu_binding: 24, 8 { data 0, bytes 8, buffer 16, });
    layout!(anynpu_submission: 112, 8 { struct_size 0, reserved 4, module 8, entry 16, inputs 24, input_count 32, outputs 40, output_count 48, states 56, state_count 64, binding_stride 72, symbols 80, symbol_count 88, done 96, });
    layout!(anynpu_counters: 32, 8 { struct_size 0, reserved 4, submissions 8, nodes 16, busy_ns 24, });
    layout!(anynpu_link: 24, 8 { struct_size 0, reserved 4, bytes_per_second 8, latency_us 16, });
    layout!(anynpu_backend: 232, 8 { struct_size 0, major 4, minor 6, name 8, version 24, context 40, enumerate 48, open 56, close 64, support 72, compile 80, destroy_module 88, submit 96, validate 104, memory_need 112, resident_bytes 120, compatibility 128, save 136, check 144, load 152, allocate 160, free 168, map 176, unmap 184, trim 192, give_up 200, shutdown 208, counters 216, link 224, });
};

// The table ended so in each minor version.
const _: () = {
    assert!(ANYNPU_BACKEND_SIZE_1_0 == 216);
    assert!(size_of::<anynpu_backend>() == 232);
};
