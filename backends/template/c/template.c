/* SPDX-License-Identifier: 0BSD
 * A backend for anynpu to start from. It runs RmsNorm, Linear and GatedActivation in F32 and claims nothing else.
 * docs/vendors.md leads from here to a certificate; hal/include/anynpu.h says what each member means.
 * Compiling makes a list of steps over tensors. A submission gives the tensors memory and runs the steps.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "anynpu.h"

#define TEXT(literal) {literal, sizeof(literal) - 1}
#define NAME(text) (int)(text).length, (text).data /* for %.*s */
/* Whether a structure of the host's, which may be older or newer, reaches to the end of a member. */
#define HAS(p, type, last) ((p) && (p)->struct_size >= offsetof(type, last) + sizeof((p)->last))
/* Element `i` of an array of the host's, whose elements may be longer than ours. */
#define AT(type, array, stride, i) ((const type *)(const void *)((const char *)(array) + (i) * (stride)))
/* Writes why a call failed into its `message`. The value is the call's status. */
#define FAIL(status, ...) (wrote(message, snprintf(message->text, message->capacity, __VA_ARGS__)), (status))

static void wrote(anynpu_message *message, int length) {
    message->length = (size_t)length < message->capacity ? (size_t)length : message->capacity - (message->capacity > 0);
}

static const anynpu_host *host;
typedef struct tensor {
    enum place { SCRATCH, WEIGHT, INPUT, OUTPUT } place;
    size_t index; /* of the binding */
    anynpu_dtype dtype;
    uint32_t rank; anynpu_dim dims[8];
    void *data;
    size_t elements, columns; /* in this submission; columns are the last dimension */
} tensor;

/* ---- The device: three kernels. Put yours here. ---- */

static float half(const uint8_t *p) {
    uint32_t bits = p[0] | (uint32_t)p[1] << 8, wide = (bits & 0x7fff) << 13; /* exponents are 112 less */
    float size;
    if ((bits & 0x7c00) == 0x7c00) wide |= 0x7f800000; /* infinities and NaN */
    memcpy(&size, &wide, 4);
    return bits >> 15 ? -size * 0x1p112f : size * 0x1p112f;
}

/* Element `i` of a parameter. The bytes of a weight stand at any alignment. */
static float element(const tensor *t, size_t i) {
    const uint8_t *p = t->data, *block = p + i / 32 * 34;
    float f;
    if (t->dtype == ANYNPU_DTYPE_F16) return half(p + 2 * i);
    if (t->dtype == ANYNPU_DTYPE_Q8_0) return (float)(int8_t)block[2 + i % 32] * half(block);
    memcpy(&f, p + 4 * i, 4);
    return f;
}

static void rms_norm(const float *x, const tensor *weight, float *y, size_t rows, size_t n, double eps) {
    for (size_t r = 0; r < rows; r++, x += n, y += n) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
        double scale = 1 / sqrt(sum / (double)n + eps);
        for (size_t i = 0; i < n; i++) y[i] = (float)(x[i] * scale * element(weight, i));
    }
}

static void linear(const float *x, const tensor *w, const tensor *bias, float *y, size_t rows, size_t k, size_t n) {
    for (size_t r = 0; r < rows; r++, x += k, y += n)
        for (size_t c = 0; c < n; c++) {
            double sum = bias ? element(bias, c) : 0;
            for (size_t i = 0; i < k; i++) sum += (double)x[i] * element(w, c * k + i);
            y[c] = (float)sum;
        }
}

static void silu_gate(const float *gate, const float *up, float *y, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}

/* ---- Which nodes run here, and why others do not: the one answer of `support` and `compile` ---- */

typedef struct verdict { anynpu_support support; anynpu_reason reason; anynpu_text detail; } verdict;
#define NO(reason, detail) ((verdict){ANYNPU_SUPPORT_NO, reason, TEXT(detail)})

static verdict judge(const anynpu_graph *g, const anynpu_node *node) {
    int norm = node->op == ANYNPU_OP_RMS_NORM, product = node->op == ANYNPU_OP_LINEAR;
    const anynpu_attribute *a = node->attributes;
    if (!norm && !product && node->op != ANYNPU_OP_GATED_ACTIVATION)
        return NO(ANYNPU_REASON_OP_UNKNOWN, "RmsNorm, Linear and GatedActivation run here");
    if (node->attribute_count != (product ? 0 : 1) || node->input_count < 2 || node->input_count > (product ? 3 : 2) ||
        (!product && a->key != (norm ? ANYNPU_KEY_EPS : ANYNPU_KEY_FUNCTION)))
        return NO(ANYNPU_REASON_OP_VERSION, "operands or attributes that this device was not written for");
    if (!norm && !product && a->value.integer != ANYNPU_ACTIVATION_SILU)
        return NO(ANYNPU_REASON_OP_UNKNOWN, "of activations, SiLU runs here");
    for (size_t i = 0; i < node->input_count; i++) {
        const anynpu_value *v = AT(anynpu_value, g->values, g->value_stride, node->inputs[i]);
        int parameter = (norm || product) && i > 0, weight = v->source == ANYNPU_VALUE_WEIGHT;
        int compact = v->dtype == ANYNPU_DTYPE_F16 || v->dtype == ANYNPU_DTYPE_Q8_0;
        if (v->rank < 1 || v->rank > 8) return NO(ANYNPU_REASON_RANK, "1 to 8 dimensions are read");
        for (uint32_t d = 0; d < v->rank; d++)
            if (v->dims[d].is_symbol && v->dims[d].size >= ANYNPU_SYMBOLS)
                return NO(ANYNPU_REASON_DYNAMIC_SHAPE, "a symbol that this device was not written for");
        if (weight ? !parameter : product && i == 1)
            return NO(ANYNPU_REASON_LAYOUT, "weights are Linear's matrix and bias, and RmsNorm's weight");
        if (v->dtype != ANYNPU_DTYPE_F32 && !(weight && compact))
            return NO(v->dtype < ANYNPU_DTYPE_Q4_0 ? ANYNPU_REASON_DTYPE : ANYNPU_REASON_QUANTIZATION,
                      "operands are F32, those that are weights F16 or Q8_0 as well");
    }
    return (verdict){ANYNPU_SUPPORT_YES, 0, TEXT("")};
}

static anynpu_status support(anynpu_device *device, const anynpu_graph *g, anynpu_tell_verdict tell, void *context,
                             anynpu_message *message) {
    (void)device;
    if (!HAS(g, anynpu_graph, output_count)) return FAIL(ANYNPU_INVALID_USE, "support: too short a graph");
    for (size_t i = 0; i < g->node_count; i++) {
        verdict v = judge(g, AT(anynpu_node, g->nodes, g->node_stride, i));
        tell(context, i, v.support, v.reason, v.detail);
    }
    return ANYNPU_OK;
}

/* ---- Compiling ---- */

typedef struct step { anynpu_op op; const tensor *x, *w, *bias, *y; double eps; } step;
typedef struct program {
    tensor *tensors; step *steps;
    size_t tensor_count, step_count, input_count, output_count;
    anynpu_extent extents[ANYNPU_SYMBOLS];
} program;
typedef struct module { program *programs; size_t count, bytes; } module;

static void set_places(program *p, const uint32_t *values, size_t count, enum place place) {
    for (size_t i = 0; i < count; i++) p->tensors[values[i]].place = place, p->tensors[values[i]].index = i;
}

static void *take(module *m, size_t count, size_t bytes) {
    m->bytes += count * bytes;
    return calloc(count + 1, bytes);
}

static void destroy_module(anynpu_device *device, anynpu_module *given) {
    module *m = given;
    (void)device;
    for (program *p = m->programs; p && p < m->programs + m->count; free(p->tensors), free(p->steps), p++)
        for (tensor *t = p->tensors; t && t < p->tensors + p->tensor_count; t++)
            if (t->place == SCRATCH) free(t->data);
    free(m->programs), free(m);
}

/* The size of a tensor under the symbols' values. The host has made sure that the largest fits in memory. */
static void measure(tensor *t, const uint32_t *symbols) {
    t->elements = t->columns = 1;
    for (uint32_t i = 0; i < t->rank; i++) {
        t->columns = t->dims[i].is_symbol ? symbols[t->dims[i].size] : t->dims[i].size;
        t->elements *= t->columns;
    }
}

static anynpu_status add_entry(module *m, size_t number, const anynpu_compile_request *r, anynpu_message *message) {
    const anynpu_entry *entry = AT(anynpu_entry, r->entries, r->entry_stride, number);
    const anynpu_graph *g = entry->graph;
    program *p = &m->programs[number];
    uint32_t limits[ANYNPU_SYMBOLS];
    size_t refused = 0;
    if (!HAS(g, anynpu_graph, output_count)) return FAIL(ANYNPU_INVALID_USE, "compile: too short a graph");
    p->tensors = take(m, p->tensor_count = g->value_count, sizeof(tensor));
    p->steps = take(m, p->step_count = g->node_count, sizeof(step));
    if (!p->tensors || !p->steps) return FAIL(ANYNPU_OUT_OF_MEMORY, "compile: no memory for tables");
    for (size_t i = 0; i < g->node_count; i++) {
        const anynpu_node *node = AT(anynpu_node, g->nodes, g->node_stride, i);
        verdict v = judge(g, node);
        if (v.support == ANYNPU_SUPPORT_NO) {
            if (r->refuse) r->refuse(r->context, number, i, v.reason, v.detail);
            refused++;
            continue;
        }
        step *s = &p->steps[i];
        s->op = node->op, s->y = &p->tensors[node->outputs[0]];
        s->x = &p->tensors[node->inputs[0]], s->w = &p->tensors[node->inputs[1]];
        if (node->input_count > 2) s->bias = &p->tensors[node->inputs[2]];
        if (s->op == ANYNPU_OP_RMS_NORM) s->eps = node->attributes->value.real;
    }
    if (refused) return FAIL(ANYNPU_COMPILE_REJECTED, "compile: %zu nodes do not run here", refused);
    for (size_t i = 0; i < ANYNPU_SYMBOLS; i++) {
        p->extents[i] = i < entry->extent_count ? entry->extents[i] : (anynpu_extent){1, 0};
        limits[i] = p->extents[i].limit;
    }
    set_places(p, g->inputs, p->input_count = g->input_count, INPUT);
    set_places(p, g->outputs, p->output_count = g->output_count, OUTPUT);
    for (size_t i = 0; i < g->value_count; i++) {
        const anynpu_value *v = AT(anynpu_value, g->values, g->value_stride, i);
        tensor *t = &p->tensors[i];
        t->dtype = v->dtype, t->rank = v->rank;
        memcpy(t->dims, v->dims, v->rank * sizeof *v->dims);
        measure(t, limits);
        if (v->source == ANYNPU_VALUE_WEIGHT) {
            const anynpu_weight *w = AT(anynpu_weight, g->weights, g->weight_stride, v->index);
            size_t block = t->dtype == ANYNPU_DTYPE_Q8_0 ? 34 : t->dtype == ANYNPU_DTYPE_F16 ? 64 : 128; /* of 32 */
            t->place = WEIGHT, t->data = (void *)w->data;
            if (!w->data || w->dtype != t->dtype || w->length * 32 < t->elements * block)
                return FAIL(ANYNPU_WEIGHT, "compile: weight '%.*s' is not what the graph says", NAME(w->name));
        } else if (t->place == SCRATCH && !(t->data = take(m, t->elements, sizeof(float)))) {
            return FAIL(ANYNPU_OUT_OF_MEMORY, "compile: no memory for '%.*s'", NAME(v->name));
        }
    }
    return ANYNPU_OK;
}

static anynpu_status compile(anynpu_device *device, const anynpu_compile_request *r, anynpu_module **out,
                             anynpu_message *message) {
    if (!HAS(r, anynpu_compile_request, refuse)) return FAIL(ANYNPU_INVALID_USE, "compile: too short a request");
    module *m = calloc(1, sizeof *m);
    if (m) m->programs = take(m, r->entry_count, sizeof(program));
    if (!m || !m->programs) return free(m), FAIL(ANYNPU_OUT_OF_MEMORY, "compile: no memory for the module");
    anynpu_status status = ANYNPU_OK;
    while (status == ANYNPU_OK && m->count < r->entry_count) {
        status = add_entry(m, m->count++, r, message);
        if (status == ANYNPU_OK && r->progress && !r->progress(r->context, m->count, r->entry_count))
            status = FAIL(ANYNPU_CANCELLED, "compile: the caller asked to stop");
    }
    if (status != ANYNPU_OK) destroy_module(device, m);
    else *out = m;
    return status;
}

static uint64_t resident_bytes(anynpu_device *device, anynpu_module *m) { return (void)device, ((module *)m)->bytes; }

/* ---- Running ---- */

static anynpu_status submit(anynpu_device *device, const anynpu_submission *s, anynpu_message *message) {
    const module *m = HAS(s, anynpu_submission, done) ? s->module : NULL;
    uint32_t symbols[ANYNPU_SYMBOLS];
    (void)device;
    if (!m || s->entry >= m->count) return FAIL(ANYNPU_INVALID_USE, "submit: there is no such entry");
    const program *p = &m->programs[s->entry];
    if (s->input_count != p->input_count || s->output_count != p->output_count || s->state_count)
        return FAIL(ANYNPU_INVALID_USE, "submit: bind %zu inputs, %zu outputs", p->input_count, p->output_count);
    for (size_t i = 0; i < ANYNPU_SYMBOLS; i++) {
        symbols[i] = i < s->symbol_count ? s->symbols[i] : 0;
        uint32_t limit = p->extents[i].limit;
        if (symbols[i] > limit || (p->extents[i].exact && symbols[i] < limit))
            return FAIL(ANYNPU_INVALID_USE, "submit: symbol %zu is %u, compiled for %u", i, symbols[i], limit);
    }
    for (tensor *t = p->tensors; t < p->tensors + p->tensor_count; t++) {
        measure(t, symbols);
        if (t->place != INPUT && t->place != OUTPUT) continue;
        const anynpu_binding *list = t->place == INPUT ? s->inputs : s->outputs;
        const anynpu_binding *b = AT(anynpu_binding, list, s->binding_stride, t->index);
        if (b->buffer || (t->elements && !b->data) || b->bytes / sizeof(float) < t->elements)
            return FAIL(ANYNPU_INVALID_USE, "submit: %zu bytes bound for %zu elements", b->bytes, t->elements);
        t->data = b->data;
    }
    for (const step *i = p->steps; i < p->steps + p->step_count; i++) {
        size_t n = i->y->columns, rows = n ? i->y->elements / n : 0;
        if (i->op == ANYNPU_OP_LINEAR) linear(i->x->data, i->w, i->bias, i->y->data, rows, i->w->columns, n);
        if (i->op == ANYNPU_OP_RMS_NORM) rms_norm(i->x->data, i->w, i->y->data, rows, n, i->eps);
        if (i->op == ANYNPU_OP_GATED_ACTIVATION) silu_gate(i->x->data, i->w->data, i->y->data, i->y->elements);
    }
    host->signal(host->context, s->done, ANYNPU_OK, (anynpu_text)TEXT(""));
    return ANYNPU_OK;
}

/* ---- What is here ---- */

static const anynpu_dtype weights[] = {ANYNPU_DTYPE_F32, ANYNPU_DTYPE_F16, ANYNPU_DTYPE_Q8_0};
static const anynpu_device_info info = {
    .struct_size = sizeof info, .kind = ANYNPU_KIND_OTHER, .name = TEXT("template_c"),
    .description = TEXT("the template in C: three ops on the processor"), .op_set = ANYNPU_OP_SET,
    .states = ANYNPU_STATES_NONE, .features = ANYNPU_FEATURE_DYNAMIC_SHAPES,
    .compute = weights, .compute_count = 1, .weights = weights, .weight_count = 3};

static anynpu_status enumerate(void *context, anynpu_tell_device tell, void *tell_context, anynpu_message *message) {
    (void)context, (void)message;
    tell(tell_context, &info);
    return ANYNPU_OK;
}

static anynpu_status open_device(void *context, const anynpu_open_request *r, anynpu_device **device,
                                 anynpu_message *message) {
    static char only; /* nothing is kept from call to call */
    (void)context;
    if (!HAS(r, anynpu_open_request, power)) return FAIL(ANYNPU_INVALID_USE, "open: too short a request");
    if (r->target.length) return FAIL(ANYNPU_UNSUPPORTED, "open: no compiling for '%.*s' here", NAME(r->target));
    if (r->name.length != info.name.length || memcmp(r->name.data, info.name.data, info.name.length))
        return FAIL(ANYNPU_UNAVAILABLE, "open: no device '%.*s' here", NAME(r->name));
    *device = &only;
    return ANYNPU_OK;
}

static void close_device(anynpu_device *device) { (void)device; }
static const anynpu_backend backend = {
    .struct_size = sizeof backend, .major = ANYNPU_ABI_MAJOR, .minor = ANYNPU_ABI_MINOR, .name = TEXT("template_c"),
    .version = TEXT("1.0.0"), .enumerate = enumerate, .open = open_device, .close = close_device, .support = support,
    .compile = compile, .destroy_module = destroy_module, .submit = submit, .resident_bytes = resident_bytes};

const anynpu_backend *anynpu_backend_query(uint16_t max_major, uint16_t max_minor, const anynpu_host *given) {
    (void)max_minor; /* what is used of the host was there from 1.0 on */
    if (max_major < ANYNPU_ABI_MAJOR || !HAS(given, anynpu_host, digest) || given->major != ANYNPU_ABI_MAJOR)
        return NULL;
    host = given;
    return &backend;
}
