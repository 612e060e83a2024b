/*
 * The C interface between anynpu and backends that are built apart from it.
 *
 * Made of the Rust package hal/abi by cbindgen; a test holds both to each other. You may use this file under the MIT
 * or the Apache 2.0 licence.
 *
 * # Rules
 * - Versions. The host names the newest version it knows. The plugin answers with a table of its own version, or
 *   null if it can serve no such host. Both then use what the lower of the two versions has. A member of a table is
 *   there only if the major versions are equal, `struct_size` covers it and it is not null. Members are only ever
 *   added at the end, each with a new minor version.
 * - Sizes. Structures begin with `struct_size`, the bytes that their maker knew. Elements of arrays have no size of
 *   their own: the distance between two is the array's stride, which may be more than the size known here. Arrays
 *   without a stride, of plain numbers, of symbols' extents and of dimensions, hold elements that never grow.
 * - Texts are UTF-8, have a length and end in no zero byte.
 * - Lifetimes. What a call is given is valid until it returns, and so is what a callback is given. Weights are
 *   valid until their module is destroyed; what a submission binds, until its point is signalled.
 * - Errors are status codes with a text in the caller's `anynpu_message`. Where a call fails, what it would have
 *   given is left as it was. No exception and no panic may leave a function.
 * - Threads. Calls to one device come from any thread, but one at a time, `give_up` alone excepted; calls to
 *   different devices come at the same time. Functions of the host may be called from any thread.
 * - Unloading. A plugin is never unloaded.
 */

#ifndef ANYNPU_H
#define ANYNPU_H

#include <stddef.h>
#include <stdint.h>

// Major version of the interface. Another one is another interface.
#define ANYNPU_ABI_MAJOR 1

// Minor version of the interface: what was added to the major one.
#define ANYNPU_ABI_MINOR 1

// Version of the op set that this header describes.
#define ANYNPU_OP_SET 2

// Feature: the device runs the whole op set and refuses no node.
#define ANYNPU_FEATURE_BASELINE 1

// Feature: entries may leave symbols bounded rather than exact.
#define ANYNPU_FEATURE_DYNAMIC_SHAPES 2

// Feature: submissions go on after `submit` has returned.
#define ANYNPU_FEATURE_ASYNCHRONOUS 4

// Feature: the device computes nothing or fails on purpose, and is used only if it is named.
#define ANYNPU_FEATURE_ARTIFICIAL 8

// How many symbols there are at most.
#define ANYNPU_SYMBOLS 8

// Rotation of the pairs `(2i, 2i + 1)`.
#define ANYNPU_ROPE_INTERLEAVED 0

// Rotation of the pairs `(i, i + rotated / 2)`.
#define ANYNPU_ROPE_HALF_SPLIT 1

// Frequencies are `base ^ (-2 i / rotated)`. No parameters.
#define ANYNPU_SCALING_NONE 0

// Divided by a factor. Parameters: factor.
#define ANYNPU_SCALING_LINEAR 1

// YaRN (arXiv 2309.00071). Parameters: factor, original context, ext factor, attention factor, beta fast, beta slow.
#define ANYNPU_SCALING_YARN 2

// As Llama 3.1. Parameters: factor, low frequency factor, high frequency factor, original context.
#define ANYNPU_SCALING_LLAMA3 3

// `-x`.
#define ANYNPU_UNARY_NEG 0

// `|x|`.
#define ANYNPU_UNARY_ABS 1

// `eˣ`.
#define ANYNPU_UNARY_EXP 2

// Natural logarithm.
#define ANYNPU_UNARY_LOG 3

// `√x`.
#define ANYNPU_UNARY_SQRT 4

// `1 / √x`.
#define ANYNPU_UNARY_RSQRT 5

// `1 / x`.
#define ANYNPU_UNARY_RECIPROCAL 6

// Sine.
#define ANYNPU_UNARY_SIN 7

// Cosine.
#define ANYNPU_UNARY_COS 8

// Hyperbolic tangent.
#define ANYNPU_UNARY_TANH 9

// `1 / (1 + e⁻ˣ)`.
#define ANYNPU_UNARY_SIGMOID 10

// Error function.
#define ANYNPU_UNARY_ERF 11

// Largest whole number not above.
#define ANYNPU_UNARY_FLOOR 12

// Smallest whole number not below.
#define ANYNPU_UNARY_CEIL 13

// Nearest whole number, half to even.
#define ANYNPU_UNARY_ROUND 14

// Logical negation.
#define ANYNPU_UNARY_NOT 15

// `max(x, 0)`.
#define ANYNPU_ACTIVATION_RELU 0

// `x · sigmoid(x)`.
#define ANYNPU_ACTIVATION_SILU 1

// `x · Φ(x)`, with the error function.
#define ANYNPU_ACTIVATION_GELU 2

// `x / 2 · (1 + tanh(√(2 / π) · (x + 0.044715 x³)))`.
#define ANYNPU_ACTIVATION_GELU_TANH 3

// `x · sigmoid(1.702 x)`.
#define ANYNPU_ACTIVATION_GELU_QUICK 4

// `a + b`.
#define ANYNPU_BINARY_ADD 0

// `a - b`.
#define ANYNPU_BINARY_SUB 1

// `a · b`.
#define ANYNPU_BINARY_MUL 2

// `a / b`; of integers towards zero, and 0 where `b` is 0.
#define ANYNPU_BINARY_DIV 3

// `a` to the power of `b`.
#define ANYNPU_BINARY_POW 4

// The larger one; NaN if one is.
#define ANYNPU_BINARY_MAX 5

// The smaller one; NaN if one is.
#define ANYNPU_BINARY_MIN 6

// `a = b`; its result is Bool, as of those that follow.
#define ANYNPU_BINARY_EQUAL 7

// `a < b`.
#define ANYNPU_BINARY_LESS 8

// `a <= b`.
#define ANYNPU_BINARY_LESS_EQUAL 9

// `a > b`.
#define ANYNPU_BINARY_GREATER 10

// `a >= b`.
#define ANYNPU_BINARY_GREATER_EQUAL 11

// Both.
#define ANYNPU_BINARY_AND 12

// Either.
#define ANYNPU_BINARY_OR 13

// Sum.
#define ANYNPU_REDUCE_SUM 0

// Mean.
#define ANYNPU_REDUCE_MEAN 1

// The largest; NaN if one is.
#define ANYNPU_REDUCE_MAX 2

// The smallest; NaN if one is.
#define ANYNPU_REDUCE_MIN 3

// What became of a call.
typedef uint32_t anynpu_status;

// How important a line of the log is.
typedef uint32_t anynpu_log_level;

// What a device is.
typedef uint32_t anynpu_device_kind;

// How a device keeps states from step to step.
typedef uint32_t anynpu_state_support;

// What kind of memory a buffer is.
typedef uint32_t anynpu_memory_kind;

// Whether a device runs a node.
typedef uint32_t anynpu_support;

// Why a device does not run a node, or not natively.
typedef uint32_t anynpu_reason;

// Whether a compiled form fits a device.
typedef uint32_t anynpu_compatibility;

// What a device is asked to be.
typedef uint32_t anynpu_power;

// The type of a tensor's elements. Tensors are row-major without gaps. Block types are GGUF's: a row is cut into blocks
// of consecutive elements that stand one behind the other without padding, numbers in them are little endian, and a
// block is aligned to one byte. `d`, `m` and `dmin` are IEEE binary16; arithmetic of decoding is in binary32.
typedef uint32_t anynpu_dtype;

// A size that is known when a step is submitted.
typedef uint32_t anynpu_symbol;

// Where a value comes from.
typedef uint32_t anynpu_value_source;

// Type of an attribute's value.
typedef uint32_t anynpu_attribute_kind;

// What an attribute says.
typedef uint32_t anynpu_key;

// An operation. The reference of operands, shapes and meaning is the documentation of `Op` in `graphs/ir/src/op.rs`; the
// lines here name operands `→` result and the keys of attributes. `?` marks what may be absent, `…` any leading
// dimensions. Arithmetic is in F32, rounded once to the result's type; results are F32 but where an op keeps its operands'
// type.
typedef uint32_t anynpu_op;

// A text of `length` bytes of UTF-8, without a zero byte at its end.
typedef struct anynpu_text {
  // Its first byte; anything if the length is 0.
  const char *data;
  // Bytes.
  size_t length;
} anynpu_text;

// Operations per second of products with weights of one type. A multiply-add is two.
typedef struct anynpu_rate {
  // Type of the weights.
  anynpu_dtype dtype;
  // Not used.
  uint32_t reserved;
  // Operations per second.
  double operations_per_second;
} anynpu_rate;

// What a device says of itself.
typedef struct anynpu_device_info {
  // Bytes of this structure.
  uint32_t struct_size;
  // What it is.
  anynpu_device_kind kind;
  // Its name: lower-case letters, digits, `-` and `_`, unique among the driver's devices.
  struct anynpu_text name;
  // For people: product, cores, what is used.
  struct anynpu_text description;
  // The op set that it was written for.
  uint32_t op_set;
  // How it keeps states.
  anynpu_state_support states;
  // `ANYNPU_FEATURE_…`, added up.
  uint64_t features;
  // Plain types that it computes in, preferred first.
  const anynpu_dtype *compute;
  // How many.
  size_t compute_count;
  // Types that it reads weights in.
  const anynpu_dtype *weights;
  // How many.
  size_t weight_count;
  // Most bytes that its modules and buffers may take; 0 if that is not bounded.
  uint64_t memory_limit;
  // Without ANYNPU_FEATURE_DYNAMIC_SHAPES: the numbers of tokens that a step may have, ascending; none for any.
  const uint32_t *tokens;
  // How many.
  size_t token_count;
  // Likewise the rows that a state may have.
  const uint32_t *capacities;
  // How many.
  size_t capacity_count;
  // A hint for plans until the device is measured: its speed, the usual type of weights first. None if unknown.
  const struct anynpu_rate *rates;
  // How many.
  size_t rate_count;
  // Bytes from one to the next.
  size_t rate_stride;
  // Hint: bytes read from memory per second.
  double bytes_per_second;
  // Hint: microseconds of starting a submission.
  double dispatch_us;
  // Hint: watts while it works; 0 if unknown.
  double busy_watts;
} anynpu_device_info;

// Is told of a device that was found.
typedef void (*anynpu_tell_device)(void *context, const struct anynpu_device_info *info);

// Where a call writes why it failed.
typedef struct anynpu_message {
  // Bytes of this structure.
  uint32_t struct_size;
  // Not used.
  uint32_t reserved;
  // Room for a text.
  char *text;
  // Bytes of room.
  size_t capacity;
  // Bytes written; set by whoever writes.
  size_t length;
  // With ANYNPU_VENDOR, the vendor's own code.
  int64_t vendor_code;
  // With ANYNPU_OUT_OF_MEMORY, the bytes asked for.
  uint64_t bytes;
} anynpu_message;

// An option by name.
typedef struct anynpu_option {
  // Its name.
  struct anynpu_text name;
  // What it is set to.
  struct anynpu_text value;
} anynpu_option;

// How to open a device.
typedef struct anynpu_open_request {
  // Bytes of this structure.
  uint32_t struct_size;
  // Threads, where the device uses the host's; 0 for its own choice.
  uint32_t threads;
  // The device's name, as it was told by `enumerate`.
  struct anynpu_text name;
  // If not empty, the device is not here: what is compiled for it is for the target of this name, is written to a
  // file and run there. A plugin that can't do that answers ANYNPU_UNSUPPORTED.
  struct anynpu_text target;
  // What it is asked to be.
  anynpu_power power;
  // Not used.
  uint32_t reserved;
  // Vendor options.
  const struct anynpu_option *options;
  // How many.
  size_t option_count;
  // Bytes from one to the next.
  size_t option_stride;
} anynpu_open_request;

// An opened device, as the plugin knows it.
typedef void anynpu_device;

// Size of one dimension.
typedef struct anynpu_dim {
  // 1 if `size` is the number of a symbol, 0 if it is the size itself.
  uint32_t is_symbol;
  // The size, or the symbol: `ANYNPU_SYMBOL_…`.
  uint32_t size;
} anynpu_dim;

// A value: what is given, kept in the model or made by a node.
typedef struct anynpu_value {
  // Its name, unique in the graph.
  struct anynpu_text name;
  // Type of its elements.
  anynpu_dtype dtype;
  // Number of dimensions.
  uint32_t rank;
  // The dimensions, outermost first.
  const struct anynpu_dim *dims;
  // Where it comes from.
  anynpu_value_source source;
  // The number of the weight or node that it comes from.
  uint32_t index;
} anynpu_value;

// An attribute's value.
typedef union anynpu_attribute_value {
  // Of ANYNPU_ATTRIBUTE_INTEGER.
  int64_t integer;
  // Of ANYNPU_ATTRIBUTE_REAL.
  double real;
  // Of ANYNPU_ATTRIBUTE_INTEGERS.
  const int64_t *integers;
  // Of ANYNPU_ATTRIBUTE_REALS.
  const float *reals;
  // Of ANYNPU_ATTRIBUTE_DIMS.
  const struct anynpu_dim *dims;
} anynpu_attribute_value;

// An attribute of a node.
typedef struct anynpu_attribute {
  // What it says.
  anynpu_key key;
  // The type of its value.
  anynpu_attribute_kind kind;
  // Elements, where the value is a list.
  size_t count;
  // The value.
  union anynpu_attribute_value value;
} anynpu_attribute;

// A node.
typedef struct anynpu_node {
  // Its name, unique in the graph.
  struct anynpu_text name;
  // What it does.
  anynpu_op op;
  // Not used.
  uint32_t reserved;
  // Numbers of its operands among the values.
  const uint32_t *inputs;
  // How many.
  size_t input_count;
  // Numbers of its results among the values.
  const uint32_t *outputs;
  // How many.
  size_t output_count;
  // Its attributes.
  const struct anynpu_attribute *attributes;
  // How many.
  size_t attribute_count;
  // Bytes from one to the next.
  size_t attribute_stride;
} anynpu_node;

// What lives from step to step, such as a layer's keys.
typedef struct anynpu_state {
  // Its name, unique in the graph.
  struct anynpu_text name;
  // Type of its elements at its home, which is what a submission binds.
  anynpu_dtype dtype;
  // Number of dimensions.
  uint32_t rank;
  // The dimensions, outermost first.
  const struct anynpu_dim *dims;
  // The axis along which rows are written.
  uint32_t axis;
  // Not used.
  uint32_t reserved;
} anynpu_state;

// A weight.
typedef struct anynpu_weight {
  // Its name. Entries of one module that name a weight alike mean the same one.
  struct anynpu_text name;
  // Its number among the graph's values.
  uint32_t value;
  // Type of its elements in memory and in the file.
  anynpu_dtype dtype;
  // Its bytes in the host's memory, at any alignment; null where a graph is only asked about. Small constants are
  // always there.
  const void *data;
  // Its bytes.
  uint64_t length;
  // A descriptor of the file that has the same bytes, which is the host's and not to be closed; -1 if none has.
  int32_t fd;
  // 1 if the graph itself carries it: a small constant.
  uint32_t is_constant;
  // Where in the file they begin.
  uint64_t offset;
} anynpu_weight;

// A graph: nodes in the order in which they run, with all that they read and make.
//
// Values are numbered by their place in `values`, and so are nodes, states and weights. A node reads only values that
// stand before its own.
typedef struct anynpu_graph {
  // Bytes of this structure.
  uint32_t struct_size;
  // The op set that its ops are of.
  uint32_t op_set;
  // The model's name.
  struct anynpu_text name;
  // All values.
  const struct anynpu_value *values;
  // How many.
  size_t value_count;
  // Bytes from one to the next.
  size_t value_stride;
  // All nodes.
  const struct anynpu_node *nodes;
  // How many.
  size_t node_count;
  // Bytes from one to the next.
  size_t node_stride;
  // States that nodes read or write.
  const struct anynpu_state *states;
  // How many.
  size_t state_count;
  // Bytes from one to the next.
  size_t state_stride;
  // Weights that nodes read.
  const struct anynpu_weight *weights;
  // How many.
  size_t weight_count;
  // Bytes from one to the next.
  size_t weight_stride;
  // Values that are bound as inputs, in this order.
  const uint32_t *inputs;
  // How many.
  size_t input_count;
  // Values that are bound as outputs, in this order.
  const uint32_t *outputs;
  // How many.
  size_t output_count;
} anynpu_graph;

// Is told of a node, by its number, whether the device runs it, and if not, or not natively, why.
typedef void (*anynpu_tell_verdict)(void *context,
                                    size_t node,
                                    anynpu_support support,
                                    anynpu_reason reason,
                                    struct anynpu_text detail);

// What a symbol may be in an entry.
typedef struct anynpu_extent {
  // 1 if it is exactly `limit`, 0 if it is anything up to it.
  uint32_t exact;
  // The number.
  uint32_t limit;
} anynpu_extent;

// Nodes to compile, with the sizes that they will be given.
typedef struct anynpu_entry {
  // Its name, unique in the module.
  struct anynpu_text name;
  // The nodes, with all that crosses their boundary. Entries of the same nodes have the same tables.
  const struct anynpu_graph *graph;
  // Extents of the symbols, by their numbers.
  const struct anynpu_extent *extents;
  // How many; a symbol past the last is exactly 0.
  size_t extent_count;
} anynpu_entry;

// What to compile, and how.
typedef struct anynpu_compile_request {
  // Bytes of this structure.
  uint32_t struct_size;
  // Not used.
  uint32_t reserved;
  // Entries that share one set of weights.
  const struct anynpu_entry *entries;
  // How many.
  size_t entry_count;
  // Bytes from one to the next.
  size_t entry_stride;
  // Vendor options.
  const struct anynpu_option *options;
  // How many.
  size_t option_count;
  // Bytes from one to the next.
  size_t option_stride;
  // Given to the functions below.
  void *context;
  // Tells how far the work has come, in any unit. 0 asks to stop, with ANYNPU_CANCELLED. May be null.
  uint32_t (*progress)(void *context, uint64_t done, uint64_t total);
  // Tells of a node that it is refused: the numbers of its entry and of it there. May be null.
  void (*refuse)(void *context, size_t entry, size_t node, anynpu_reason reason, struct anynpu_text detail);
} anynpu_compile_request;

// Compiled entries, as the plugin knows them.
typedef void anynpu_module;

// Memory of the plugin's own, as the plugin knows it.
typedef void anynpu_buffer;

// Memory that is bound to a submission.
typedef struct anynpu_binding {
  // Its first byte in the host's memory, aligned to 64 bytes; null for memory of the plugin's own.
  void *data;
  // Bytes, at least as many as the value needs under the submission's symbols.
  size_t bytes;
  // The plugin's own buffer; null for the host's memory.
  anynpu_buffer *buffer;
} anynpu_binding;

// The end of a submission, as the host knows it. It is copied and handed back.
typedef struct anynpu_point {
  // Which submission.
  uint64_t id;
  // Which life of the queue.
  uint64_t generation;
} anynpu_point;

// One run of one entry.
typedef struct anynpu_submission {
  // Bytes of this structure.
  uint32_t struct_size;
  // Not used.
  uint32_t reserved;
  // What was compiled.
  anynpu_module *module;
  // The number of the entry.
  size_t entry;
  // Inputs, as the entry's graph lists them.
  const struct anynpu_binding *inputs;
  // How many.
  size_t input_count;
  // Outputs, as the entry's graph lists them.
  const struct anynpu_binding *outputs;
  // How many.
  size_t output_count;
  // States, as the entry's graph lists them.
  const struct anynpu_binding *states;
  // How many.
  size_t state_count;
  // Bytes from one binding to the next, in all three lists.
  size_t binding_stride;
  // The symbols' values, by their numbers.
  const uint32_t *symbols;
  // How many; a symbol past the last is 0.
  size_t symbol_count;
  // To be signalled once the run has ended, but not if `submit` fails.
  struct anynpu_point done;
} anynpu_submission;

// Memory that compiling will take, in bytes.
typedef struct anynpu_memory_need {
  // Bytes of this structure.
  uint32_t struct_size;
  // Not used.
  uint32_t reserved;
  // Held as long as the module lives.
  uint64_t resident;
  // Of the weights in the host's memory, read in place while running.
  uint64_t in_place;
  // Shared by all modules of the device.
  uint64_t scratch;
  // Held while compiling.
  uint64_t transient;
} anynpu_memory_need;

// Takes bytes; may be called several times, which adds up.
typedef void (*anynpu_tell_bytes)(void *context, const void *data, size_t length);

// What a buffer must be.
typedef struct anynpu_buffer_request {
  // Bytes of this structure.
  uint32_t struct_size;
  // What kind of memory.
  anynpu_memory_kind kind;
  // For messages.
  struct anynpu_text name;
  // Size.
  size_t bytes;
  // Alignment, a power of two, at least 64.
  size_t align;
} anynpu_buffer_request;

// What a device has run since it was opened.
typedef struct anynpu_counters {
  // Bytes of this structure.
  uint32_t struct_size;
  // Not used.
  uint32_t reserved;
  // Submissions that succeeded.
  uint64_t submissions;
  // Nodes that they ran.
  uint64_t nodes;
  // Nanoseconds that they took.
  uint64_t busy_ns;
} anynpu_counters;

// What copying values from one device to another costs.
typedef struct anynpu_link {
  // Bytes of this structure.
  uint32_t struct_size;
  // Not used.
  uint32_t reserved;
  // Bytes per second of a copy.
  double bytes_per_second;
  // Microseconds of a transfer however small.
  double latency_us;
} anynpu_link;

// Functions of a plugin. Members that are marked optional may be null.
//
// `context` is the table's own, given to the first two; the others are given what they made.
typedef struct anynpu_backend {
  // Bytes of this structure, as the plugin knows it.
  uint32_t struct_size;
  // Major version that the plugin was written for.
  uint16_t major;
  // Minor version that the plugin was written for.
  uint16_t minor;
  // The driver's name: lower-case letters, digits, `-` and `_`.
  struct anynpu_text name;
  // The driver's own version, for people and for caches.
  struct anynpu_text version;
  // Given to `enumerate` and `open`.
  void *context;
  // Tells of each device that there is. ANYNPU_UNAVAILABLE with a message says why there is none.
  anynpu_status (*enumerate)(void *context,
                             anynpu_tell_device tell,
                             void *tell_context,
                             struct anynpu_message *message);
  // Opens a device.
  anynpu_status (*open)(void *context,
                        const struct anynpu_open_request *request,
                        anynpu_device **device,
                        struct anynpu_message *message);
  // Closes a device, once all that it ran has ended. Its modules and buffers are gone by then.
  void (*close)(anynpu_device *device);
  // Tells of each node whether the device runs it: quickly, from a table. Of a node that nothing is told of, the
  // device does not run it.
  anynpu_status (*support)(anynpu_device *device,
                           const struct anynpu_graph *graph,
                           anynpu_tell_verdict tell,
                           void *tell_context,
                           struct anynpu_message *message);
  // Compiles entries. Nothing of the request may be kept but pointers to weights.
  anynpu_status (*compile)(anynpu_device *device,
                           const struct anynpu_compile_request *request,
                           anynpu_module **module,
                           struct anynpu_message *message);
  // Destroys a module. Nothing of it runs any more.
  void (*destroy_module)(anynpu_device *device, anynpu_module *module);
  // Runs an entry, or starts to. After ANYNPU_OK the plugin signals `done` exactly once, before or after it returns;
  // after anything else never. Submissions run in their order. Nothing past the bytes that a value needs may be
  // written.
  anynpu_status (*submit)(anynpu_device *device,
                          const struct anynpu_submission *submission,
                          struct anynpu_message *message);
  // Optional: as `support`, but by the vendor's own validator, for nodes that are about to be compiled.
  anynpu_status (*validate)(anynpu_device *device,
                            const struct anynpu_graph *graph,
                            anynpu_tell_verdict tell,
                            void *tell_context,
                            struct anynpu_message *message);
  // Optional: the memory that compiling the same will take. Weights are valid during this call only.
  anynpu_status (*memory_need)(anynpu_device *device,
                               const struct anynpu_compile_request *request,
                               struct anynpu_memory_need *need,
                               struct anynpu_message *message);
  // Optional: bytes that a module holds besides weights that it reads in the host's memory.
  uint64_t (*resident_bytes)(anynpu_device *device, anynpu_module *module);
  // Optional, the next four together: the bytes that decide whether a compiled form fits.
  void (*compatibility)(anynpu_device *device, anynpu_tell_bytes tell, void *tell_context);
  // The compiled form of a module.
  anynpu_status (*save)(anynpu_device *device,
                        anynpu_module *module,
                        anynpu_tell_bytes tell,
                        void *tell_context,
                        struct anynpu_message *message);
  // Whether a compiled form fits; the message says why not. The bytes may be anything.
  anynpu_compatibility (*check)(anynpu_device *device,
                                const void *data,
                                size_t length,
                                struct anynpu_message *message);
  // Makes a module of a compiled form. The request holds what the form was compiled from. The bytes may be anything.
  anynpu_status (*load)(anynpu_device *device,
                        const void *data,
                        size_t length,
                        const struct anynpu_compile_request *request,
                        anynpu_module **module,
                        struct anynpu_message *message);
  // Optional, the next four together: memory of the plugin's own. Without them the host's memory is bound.
  anynpu_status (*allocate)(anynpu_device *device,
                            const struct anynpu_buffer_request *request,
                            anynpu_buffer **buffer,
                            struct anynpu_message *message);
  // Gives a buffer back.
  void (*free)(anynpu_device *device, anynpu_buffer *buffer);
  // Makes a buffer visible to the host until `unmap`, for reading or, if `write` is 1, for writing too. `binding`
  // gets its memory and size.
  anynpu_status (*map)(anynpu_device *device,
                       anynpu_buffer *buffer,
                       uint32_t write,
                       struct anynpu_binding *binding,
                       struct anynpu_message *message);
  // Ends a mapping: what was written is visible to the device.
  void (*unmap)(anynpu_device *device, anynpu_buffer *buffer);
  // Optional: gives back memory that it can have again, and tells how many bytes.
  uint64_t (*trim)(anynpu_device *device);
  // Optional: nobody waits any longer for what was submitted. What can be stopped is stopped. It may come while
  // another call to the device has not returned.
  void (*give_up)(anynpu_device *device);
  // Optional: the process ends, or the application is done with the plugin. Called once, with `context`.
  void (*shutdown)(void *context);
  // Optional, from 1.1: what the device has run, by its own count. Without it the host counts.
  void (*counters)(anynpu_device *device, struct anynpu_counters *counters);
  // Optional, from 1.1, a hint: improves what is assumed of copies between this device and another, which `link`
  // holds.
  void (*link)(anynpu_device *device,
               struct anynpu_text other,
               anynpu_device_kind other_kind,
               struct anynpu_link *link);
} anynpu_backend;

// Functions of the host. Each takes `context` first. They may be called from any thread, until the process ends.
typedef struct anynpu_host {
  // Bytes of this structure.
  uint32_t struct_size;
  // Major version that the host offers.
  uint16_t major;
  // Minor version that the host offers.
  uint16_t minor;
  // To be given to every function.
  void *context;
  // Adds a line to the application's log.
  void (*log)(void *context, anynpu_log_level level, struct anynpu_text text);
  // Says that a submission has ended: with ANYNPU_OK, or with what went wrong. It never blocks. What comes late,
  // twice or for nothing is ignored; 1 is returned if it counted, else 0.
  uint32_t (*signal)(void *context, struct anynpu_point point, anynpu_status status, struct anynpu_text text);
  // Nanoseconds of the clock that the application's traces are in.
  uint64_t (*now_ns)(void *context);
  // Memory of `bytes`, aligned to `align`, a power of two; null if there is none. It counts as the host's.
  void *(*allocate)(void *context, size_t bytes, size_t align);
  // Gives back what `allocate` gave, with the same numbers.
  void (*release)(void *context, void *memory, size_t bytes, size_t align);
  // Writes the BLAKE3 hash of a weight's bytes, 32 bytes: what it is known by in caches.
  anynpu_status (*digest)(void *context, const struct anynpu_weight *weight, uint8_t *out);
} anynpu_host;

// The one symbol of a plugin: its table for a host that knows no version above `max_major.max_minor`, or null if it
// can serve none such. Both tables live until the process ends.
typedef const struct anynpu_backend *(*anynpu_backend_query_fn)(uint16_t max_major,
                                                                uint16_t max_minor,
                                                                const struct anynpu_host *host);

// It did what it should.
#define ANYNPU_OK 0

// The device is gone, and all that was on it.
#define ANYNPU_DEVICE_LOST 1

// Memory ran out.
#define ANYNPU_OUT_OF_MEMORY 2

// It took too long.
#define ANYNPU_TIMEOUT 3

// Nodes were refused; `refuse` of the request was told which.
#define ANYNPU_COMPILE_REJECTED 4

// A compiled form does not fit the device.
#define ANYNPU_BLOB_REJECTED 5

// A weight can't be had.
#define ANYNPU_WEIGHT 6

// The caller broke the rules: a size, a number, an order.
#define ANYNPU_INVALID_USE 7

// The caller asked to stop.
#define ANYNPU_CANCELLED 8

// The device does not offer the call.
#define ANYNPU_UNSUPPORTED 9

// The vendor's own library failed; `vendor_code` of the message is its code.
#define ANYNPU_VENDOR 10

// There is no such device here; the message says what was looked for and where.
#define ANYNPU_UNAVAILABLE 11

// Something failed.
#define ANYNPU_LOG_ERROR 1

// Something is not as it should be.
#define ANYNPU_LOG_WARN 2

// For people who look closely.
#define ANYNPU_LOG_INFO 3

// For the plugin's own developers.
#define ANYNPU_LOG_DEBUG 4

// A processor.
#define ANYNPU_KIND_CPU 0

// A graphics processor.
#define ANYNPU_KIND_GPU 1

// A neural processor.
#define ANYNPU_KIND_NPU 2

// A model of a device, not a device.
#define ANYNPU_KIND_SIMULATED 3

// Something else.
#define ANYNPU_KIND_OTHER 4

// It runs no node that touches a state.
#define ANYNPU_STATES_NONE 0

// It writes rows into the caller's buffer.
#define ANYNPU_STATES_IN_PLACE 2

// Ordinary host memory.
#define ANYNPU_MEMORY_HOST 0

// Anonymous memory with a file descriptor.
#define ANYNPU_MEMORY_MEMFD 1

// A DMA-BUF.
#define ANYNPU_MEMORY_DMA_BUF 2

// An Android hardware buffer.
#define ANYNPU_MEMORY_AHARDWAREBUFFER 3

// An Apple IOSurface.
#define ANYNPU_MEMORY_IOSURFACE 4

// Memory that only its device can touch.
#define ANYNPU_MEMORY_DEVICE 5

// It does not.
#define ANYNPU_SUPPORT_NO 0

// It does, in its own way.
#define ANYNPU_SUPPORT_YES 1

// It does, but not natively: in a wider type, on the processor, ….
#define ANYNPU_SUPPORT_EMULATED 2

// The device has no such op.
#define ANYNPU_REASON_OP_UNKNOWN 0

// The op is newer than the device's op set.
#define ANYNPU_REASON_OP_VERSION 1

// An element type.
#define ANYNPU_REASON_DTYPE 2

// A quantisation format.
#define ANYNPU_REASON_QUANTIZATION 3

// Too many or too few dimensions.
#define ANYNPU_REASON_RANK 4

// A run-time dimension where the device needs a fixed one.
#define ANYNPU_REASON_DYNAMIC_SHAPE 5

// A dimension past the device's limit.
#define ANYNPU_REASON_SHAPE_LIMIT 6

// A memory layout, or which operand is a weight.
#define ANYNPU_REASON_LAYOUT 7

// The device's memory.
#define ANYNPU_REASON_MEMORY_LIMIT 8

// State that outlives a step.
#define ANYNPU_REASON_STATE 9

// The vendor's own validator said no.
#define ANYNPU_REASON_VENDOR_REJECTED 10

// It does not load.
#define ANYNPU_BLOB_UNSUPPORTED 0

// Load it.
#define ANYNPU_BLOB_OPTIMAL 1

// It loads, but compiling again would give a better one.
#define ANYNPU_BLOB_PREFER_RECOMPILE 2

// As it is by itself.
#define ANYNPU_POWER_DEFAULT 0

// As fast as can be, for seconds.
#define ANYNPU_POWER_BURST 1

// As fast as can be held.
#define ANYNPU_POWER_SUSTAINED 2

// Sparing.
#define ANYNPU_POWER_SAVER 3

// IEEE 754 binary32.
#define ANYNPU_DTYPE_F32 0

// IEEE 754 binary16.
#define ANYNPU_DTYPE_F16 1

// bfloat16: the upper half of a binary32.
#define ANYNPU_DTYPE_BF16 2

// Signed 8-bit integer.
#define ANYNPU_DTYPE_I8 3

// Unsigned 8-bit integer.
#define ANYNPU_DTYPE_U8 4

// Signed 16-bit integer.
#define ANYNPU_DTYPE_I16 5

// Signed 32-bit integer.
#define ANYNPU_DTYPE_I32 6

// Signed 64-bit integer.
#define ANYNPU_DTYPE_I64 7

// One byte, 0 or 1.
#define ANYNPU_DTYPE_BOOL 8

// Blocks of 32 elements in 18 bytes: `d`; `qs[16]`. Byte `i` of `qs` holds the 4-bit code of element `i` in its low
// half and that of element `i + 16` in its high half. Element = `(code - 8) * d`.
#define ANYNPU_DTYPE_Q4_0 32

// Blocks of 32 elements in 20 bytes: `d`; `m`; `qs[16]` as in Q4_0. Element = `code * d + m`.
#define ANYNPU_DTYPE_Q4_1 33

// Blocks of 32 elements in 22 bytes: `d`; `qh`, a u32 whose bit `i` is the fifth (highest) bit of element `i`'s code;
// `qs[16]` as in Q4_0 with the low four bits. Element = `(code - 16) * d`.
#define ANYNPU_DTYPE_Q5_0 34

// Blocks of 32 elements in 24 bytes: `d`; `m`; `qh`; `qs[16]` as in Q5_0. Element = `code * d + m`.
#define ANYNPU_DTYPE_Q5_1 35

// Blocks of 32 elements in 34 bytes: `d`; `q[32]`, signed bytes. Element = `q * d`.
#define ANYNPU_DTYPE_Q8_0 36

// Blocks of 256 elements in 144 bytes: `d`; `dmin`; `s[12]`; `qs[128]`. Sub-block `j` of 32 elements has a 6-bit scale
// and a 6-bit minimum in `s`: for `j < 4` they are `s[j] & 63` and `s[j + 4] & 63`, else
// `(s[j + 4] & 15) | (s[j - 4] >> 6) << 4` and `(s[j + 4] >> 4) | (s[j] >> 6) << 4`. Codes stand in groups of 64
// elements to 32 bytes: byte `i` of group `g` holds element `64 g + i` in its low half and element `64 g + 32 + i` in
// its high half. Element = `code * (d * scale) - dmin * minimum`.
#define ANYNPU_DTYPE_Q4_K 37

// Blocks of 256 elements in 176 bytes: `d`; `dmin`; `s[12]`; `qh[32]`; `qs[128]`. As Q4_K with a fifth (highest) bit:
// that of element `32 j + i` is bit `j` of `qh[i]`.
#define ANYNPU_DTYPE_Q5_K 38

// Blocks of 256 elements in 210 bytes: `ql[128]`; `qh[64]`; `scales[16]`, signed bytes; `d`. The block is two halves of
// 128 elements, each with 64 bytes of `ql`, 32 of `qh` and 8 scales. In a half, for `i` below 32: element `i` has the
// low four bits `ql[i] & 15` and the high two `qh[i] & 3`; element `i + 32` has `ql[i + 32] & 15` and `qh[i] >> 2 & 3`;
// element `i + 64` has `ql[i] >> 4` and `qh[i] >> 4 & 3`; element `i + 96` has `ql[i + 32] >> 4` and `qh[i] >> 6`.
// Scales are for 16 elements each. Element = `(code - 32) * (d * scale)`.
#define ANYNPU_DTYPE_Q6_K 39

// Tokens of a step.
#define ANYNPU_SYMBOL_TOKENS 0

// Rows that the KV cache holds when the step begins, and so the position of its first token.
#define ANYNPU_SYMBOL_CACHED 1

// Rows of which outputs are wanted.
#define ANYNPU_SYMBOL_OUTPUTS 2

// Rows that the KV cache can hold.
#define ANYNPU_SYMBOL_CAPACITY 3

// From outside: the caller binds it.
#define ANYNPU_VALUE_INPUT 0

// A weight: `index` is its number among the graph's weights.
#define ANYNPU_VALUE_WEIGHT 1

// A node: `index` is its number among the graph's nodes.
#define ANYNPU_VALUE_NODE 2

// `integer`. Truth is 1 or 0; a word is one of the constants for it; a state is its number in the graph's.
#define ANYNPU_ATTRIBUTE_INTEGER 0

// `real`.
#define ANYNPU_ATTRIBUTE_REAL 1

// `count` elements at `integers`.
#define ANYNPU_ATTRIBUTE_INTEGERS 2

// `count` elements at `reals`.
#define ANYNPU_ATTRIBUTE_REALS 3

// `count` elements at `dims`.
#define ANYNPU_ATTRIBUTE_DIMS 4

// Integer: MatMul's first operand is given transposed.
#define ANYNPU_KEY_TRANSPOSE_A 0

// Integer: MatMul's second operand is given transposed.
#define ANYNPU_KEY_TRANSPOSE_B 1

// Real: added to the mean square or the variance.
#define ANYNPU_KEY_EPS 2

// Integer: `ANYNPU_ROPE_…`.
#define ANYNPU_KEY_STYLE 3

// Integer: elements of a head that are rotated.
#define ANYNPU_KEY_ROTATED 4

// Reals: the frequency of each pair, with all scaling for long contexts in it.
#define ANYNPU_KEY_FREQUENCIES 5

// Real: what cosines and sines are multiplied by.
#define ANYNPU_KEY_MAGNITUDE 6

// Integer: the state that attention reads keys from; absent if they are operand 1.
#define ANYNPU_KEY_KEY_STATE 7

// Integer: the state that attention reads values from; absent if they are operand 2.
#define ANYNPU_KEY_VALUE_STATE 8

// Integer: a query sees rows up to its position only.
#define ANYNPU_KEY_CAUSAL 9

// Integer: the last operand is an additive mask.
#define ANYNPU_KEY_MASK 10

// Real: multiplies scores.
#define ANYNPU_KEY_SCALE 11

// Real: scores become `cap * tanh(score / cap)`; absent if they don't.
#define ANYNPU_KEY_SOFT_CAP 12

// Integer: rows at or below `position - window` are hidden; absent if none are.
#define ANYNPU_KEY_WINDOW 13

// Integer: the state that is read or written.
#define ANYNPU_KEY_STATE 14

// Dims, one: the first row written, or the first element of a series.
#define ANYNPU_KEY_AT 15

// Dims, one: number of rows of keys.
#define ANYNPU_KEY_KEYS 16

// Real: what hidden places of a mask hold.
#define ANYNPU_KEY_HIDDEN 17

// Integer: an axis; absent where an op does without.
#define ANYNPU_KEY_AXIS 18

// Integer: which function: `ANYNPU_UNARY_…`, `ANYNPU_ACTIVATION_…`, `ANYNPU_BINARY_…` or `ANYNPU_REDUCE_…`.
#define ANYNPU_KEY_FUNCTION 19

// Dims: the shape of the result.
#define ANYNPU_KEY_SHAPE 20

// Integers: output axis `i` is input axis `perm[i]`.
#define ANYNPU_KEY_PERM 21

// Integer: first element of a slice.
#define ANYNPU_KEY_START 22

// Integer: one past the last element of a slice.
#define ANYNPU_KEY_END 23

// Integer: distance of elements of a slice.
#define ANYNPU_KEY_STEP 24

// Integers: sizes of parts.
#define ANYNPU_KEY_SIZES 25

// Integers: axes, ascending.
#define ANYNPU_KEY_AXES 26

// Integer: reduced axes stay as size 1.
#define ANYNPU_KEY_KEEP_DIMS 27

// Integer: `ANYNPU_DTYPE_…` of the result.
#define ANYNPU_KEY_TO 28

// Integer: how many.
#define ANYNPU_KEY_COUNT 29

// Integers, one an axis: steps of a convolution.
#define ANYNPU_KEY_STRIDE 30

// Integers, one an axis: zeros added at both ends.
#define ANYNPU_KEY_PADDING 31

// Integers, one an axis: distances of taps.
#define ANYNPU_KEY_DILATION 32

// Integer: groups of channels.
#define ANYNPU_KEY_GROUPS 33

// Dims, one: number of elements.
#define ANYNPU_KEY_LENGTH 34

// Real: the base of rotary frequencies, from which FREQUENCIES and MAGNITUDE follow with the two that come next.
#define ANYNPU_KEY_BASE 35

// Integer: how frequencies are stretched for long contexts, `ANYNPU_SCALING_…`.
#define ANYNPU_KEY_SCALING 36

// Reals: what the way of stretching says it takes.
#define ANYNPU_KEY_SCALING_PARAMETERS 37

// `x[…, K], w[N, K], bias[N]? → […, N]`: `x · wᵀ + bias`. `w` may be of a block type.
#define ANYNPU_OP_LINEAR 0

// `x[T, M, K], w[E, N, K], ids[T, S] → [T, S, N]`: row `x[t, s]` (or `x[t, 0]`) times the matrix `w[ids[t, s]]`ᵀ.
#define ANYNPU_OP_EXPERT_LINEAR 1

// `a[…, M, K], b[…, K, N] → […, M, N]`; leading dimensions broadcast. TRANSPOSE_A, TRANSPOSE_B.
#define ANYNPU_OP_MATMUL 2

// `table[V, D], ids[…] → […, D]`. `table` may be of a block type.
#define ANYNPU_OP_EMBEDDING 3

// `x[…, D], weight[D] → […, D]`: `x / √(mean(x²) + eps) · weight`. EPS.
#define ANYNPU_OP_RMS_NORM 4

// `x[…, D], gamma[D], beta[D]? → […, D]`: `(x − mean) / √(variance + eps) · gamma + beta`. EPS.
#define ANYNPU_OP_LAYER_NORM 5

// `x[T, H, D], positions[T], freq_factors[rotated / 2]? → [T, H, D]`: rotates each pair `i` of a head by the angle
// `position · frequency[i]`, divided by `freq_factors[i]` if they are given, with cosine and sine times the magnitude.
// STYLE, ROTATED, FREQUENCIES, MAGNITUDE, BASE, SCALING, SCALING_PARAMETERS.
#define ANYNPU_OP_ROPE 6

// `q[T, heads, D], (k[S, kv_heads, D], v[S, kv_heads, Dv])?, positions[T]?, mask[T, S]? → [T, heads, Dv]`. Query head `h`
// reads KV head `h / (heads / kv_heads)`. Keys and values are operands, or the first `cached + T` rows of two states.
// KEY_STATE?, VALUE_STATE?, CAUSAL, MASK, SCALE, SOFT_CAP?, WINDOW?.
#define ANYNPU_OP_ATTENTION 7

// `rows → ()`: writes rows from AT on of a state along its axis, converted to its type. STATE, AT.
#define ANYNPU_OP_KV_APPEND 8

// `() → the state's shape`. STATE.
#define ANYNPU_OP_STATE_READ 9

// `positions[T] → [T, keys]`: 0 where a query sees a row, HIDDEN where not. KEYS, HIDDEN, WINDOW?.
#define ANYNPU_OP_CAUSAL_MASK 10

// `x → x`. AXIS.
#define ANYNPU_OP_SOFTMAX 11

// `x → x`. FUNCTION.
#define ANYNPU_OP_UNARY 12

// `x → x`. FUNCTION.
#define ANYNPU_OP_ACTIVATION 13

// `gate, up → function(gate) · up`. FUNCTION.
#define ANYNPU_OP_GATED_ACTIVATION 14

// `x → cap · tanh(x / cap)`. SOFT_CAP.
#define ANYNPU_OP_SOFT_CAP 15

// `a, b → broadcast(a, b)`, as numpy does. FUNCTION.
#define ANYNPU_OP_BINARY 16

// `condition, a, b → broadcast`: `a` where true.
#define ANYNPU_OP_SELECT 17

// `data, indices → data.shape` with the axis replaced by the indices' shape. AXIS.
#define ANYNPU_OP_GATHER 18

// `data, indices[n], updates → data` with the slices at the indices replaced; later ones win. AXIS.
#define ANYNPU_OP_SCATTER 19

// `x → shape`. SHAPE.
#define ANYNPU_OP_RESHAPE 20

// `x → x` with axes permuted. PERM.
#define ANYNPU_OP_TRANSPOSE 21

// `x → shape`, as numpy broadcasts. SHAPE.
#define ANYNPU_OP_BROADCAST 22

// `x → x[start..end:step]` along an axis. AXIS, START, END, STEP.
#define ANYNPU_OP_SLICE 23

// `x₀, x₁, … → x` joined along an axis. AXIS.
#define ANYNPU_OP_CONCAT 24

// `x → x₀, x₁, …`. AXIS, SIZES.
#define ANYNPU_OP_SPLIT 25

// `x → x` reduced. FUNCTION, AXES, KEEP_DIMS.
#define ANYNPU_OP_REDUCE 26

// `x → x` converted. TO.
#define ANYNPU_OP_CAST 27

// `x, scale, zero_point → q`: `clamp(round(x / scale) + zero_point)`, half to even. TO, AXIS?.
#define ANYNPU_OP_QUANTIZE 28

// `q, scale, zero_point → x`: `(q − zero_point) · scale`. AXIS?.
#define ANYNPU_OP_DEQUANTIZE 29

// `x[…, N] → values[…, k], indices[…, k]`, largest first, ties by lower index. COUNT.
#define ANYNPU_OP_TOP_K 30

// `x → indices` with the axis removed. AXIS.
#define ANYNPU_OP_ARG_MAX 31

// `x[B, C, L], w[O, C / groups, K], bias[O]? → [B, O, L']`. STRIDE, PADDING, DILATION, GROUPS.
#define ANYNPU_OP_CONV1D 32

// `x[B, C, H, W], w[O, C / groups, KH, KW], bias[O]? → [B, O, H', W']`. STRIDE, PADDING, DILATION, GROUPS.
#define ANYNPU_OP_CONV2D 33

// `() → [length]`: AT, AT + 1, …, in I32. AT, LENGTH.
#define ANYNPU_OP_IOTA 34

#if defined(_WIN32)
#define ANYNPU_EXPORT __declspec(dllexport)
#else
#define ANYNPU_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif
// The one symbol of a plugin: see anynpu_backend_query_fn.
ANYNPU_EXPORT const anynpu_backend *anynpu_backend_query(uint16_t max_major, uint16_t max_minor,
                                                         const anynpu_host *host);
#ifdef __cplusplus
}
#endif

#endif
