"""Writes the llama of a GGUF file as an ONNX model for ONNX Runtime's CPU provider, its weights in a file beside it.

usage: onnx_llama.py MODEL.gguf MODEL.onnx
The operators are those that ONNX Runtime's own generator of language models takes for CPUs, and weights keep their
values: Q4_0 is MatMulNBits of 4 bits, Q8_0, Q5_0 and Q6_K are MatMulNBits of 8 bits, all with 8-bit activations; F32,
F16 and BF16 are a product in f32, which the provider makes of one in f16 too on x86-64. What has no such form is
refused: so are Q4_K and its like, as minima are no whole zero points, and MatMulNBits takes others in f32 only.
"""
import sys
from pathlib import Path

import gguf
import numpy
from onnx import TensorProto, helper, numpy_helper, save

PLAIN = ("F32", "F16", "BF16")
NBITS = {"Q4_0": (4, 32), "Q8_0": (8, 32), "Q5_0": (8, 32), "Q6_K": (8, 16)}  # bits of a weight, weights of a scale
BLOCK_BYTES = {"Q4_0": 18, "Q8_0": 34, "Q5_0": 22, "Q6_K": 210}


class Graph:
    """An ONNX graph in the making from the tensors of a GGUF file. Large constants go to the data file at once."""

    def __init__(self, tensors, data):
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.unused = set(self.tensors)
        self.data = data
        self.nodes, self.constants = [], []

    def constant(self, name, array):
        if array.nbytes < 1024:
            self.constants.append(numpy_helper.from_array(array, name))
            return name
        self.data.write(bytes(-self.data.tell() % 4096))
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
        place = {"location": Path(self.data.name).name, "offset": self.data.tell(), "length": array.nbytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.data.write(numpy.ascontiguousarray(array))
        self.constants.append(tensor)
        return name

    def node(self, operator, inputs, outputs=(), domain="", **attributes):
        """Adds a node; its first output, which is named after the node's place unless named."""
        outputs = outputs or (f"{operator}.{len(self.nodes)}",)
        self.nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def own(self, operator, inputs, outputs=(), **attributes):
        """Adds a node of ONNX Runtime's own operators."""
        return self.node(operator, inputs, outputs, domain="com.microsoft", **attributes)

    def values(self, name):
        """A tensor of the file in f32."""
        self.unused.discard(name)
        tensor = self.tensors[name]
        return gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])

    def product(self, x, *names):
        """`x` by the matrices of these names, one below the other: their rows are the outputs."""
        values = numpy.concatenate([self.values(name) for name in names])
        kind = self.kind(names[0])
        if kind in PLAIN:
            return self.node("MatMul", [x, self.constant(names[0], values.T)])
        bits, block = NBITS[kind]
        rows, columns = values.shape
        scales = numpy.concatenate([scales_of(self.tensors[name].data, kind) for name in names]).reshape(rows, -1)
        numbers = values.reshape(rows, -1, block) / numpy.where(scales, scales, 1)[..., None]
        codes = (numpy.rint(numbers) + (1 << bits - 1)).astype(numpy.uint8)
        if bits == 4:  # pairs of neighbours
            codes = codes[..., ::2] | codes[..., 1::2] << 4
        inputs = [x, self.constant(names[0], codes), self.constant(f"{names[0]}.scales", scales)]
        options = {"K": columns, "N": rows, "bits": bits, "block_size": block, "accuracy_level": 4}
        return self.own("MatMulNBits", inputs, **options)

    def kind(self, name):
        return self.tensors[name].tensor_type.name

    def norm(self, x, added, name, epsilon):
        """The sum of both, normalised, and the sum."""
        weight = self.constant(name, self.values(name))
        if added is None:
            return self.node("SimplifiedLayerNormalization", [x, weight], axis=-1, epsilon=epsilon), x
        outputs = [f"{name}.normal", "", "", f"{name}.sum"]
        self.own("SkipSimplifiedLayerNormalization", [x, added, weight], outputs, epsilon=epsilon)
        return outputs[0], outputs[3]

    def resized(self, x, count, old, new):
        """As many heads of another size: zeros are added or left off."""
        if old == new:
            return x
        split = self.constant(f"{x}.split", numpy.array([1, -1, count, old]))
        pads = self.constant(f"{x}.pads", numpy.array([0] * 7 + [new - old]))
        joined = self.constant(f"{x}.joined", numpy.array([1, -1, count * new]))
        return self.node("Reshape", [self.node("Pad", [self.node("Reshape", [x, split]), pads]), joined])


def scales_of(blocks, kind):
    """The factors of a tensor's blocks in order, by the layouts in ggml-common.h of github.com/ggml-org/ggml."""
    blocks = blocks.reshape(-1, BLOCK_BYTES[kind])
    at = 208 if kind == "Q6_K" else 0
    scales = blocks[:, at : at + 2].copy().view(numpy.float16).astype(numpy.float32)
    return scales * blocks[:, 192:208].view(numpy.int8) if kind == "Q6_K" else scales


def main():
    source, target = sys.argv[1:]
    reader = gguf.GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
    family = fields["general.architecture"]
    if family != "llama" or fields.get("llama.rope.scaling.type", "none") != "none":
        sys.exit(f"ONNX is written here for llamas without scaled positions, not for this {family}")
    for tensor in reader.tensors:
        if tensor.tensor_type.name not in (*PLAIN, *NBITS):
            sys.exit(f"{tensor.name}: MatMulNBits has no 8-bit product of the values of {tensor.tensor_type.name}")
    with open(f"{target}.data", "wb") as data:
        graph = Graph(reader.tensors, data)
        inputs, outputs = llama(graph, {name.removeprefix("llama."): value for name, value in fields.items()})
    if graph.unused:
        sys.exit(f"{min(graph.unused)} has no place in the llama that is written here")
    made = helper.make_graph(graph.nodes, "llama", inputs, outputs, graph.constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    save(helper.make_model(made, opset_imports=opsets, ir_version=10), target)


def llama(graph, fields):
    """Adds the nodes of a decoder; its inputs and outputs. Logits are of the last token only.

    `last` is the position of the last token, `total` the number of tokens up to it; `past` and `present` are to be the
    same memory, for the most tokens.
    """
    layers, heads, width = fields["block_count"], fields["attention.head_count"], fields["embedding_length"]
    kv_heads = fields.get("attention.head_count_kv", heads)
    head = fields.get("attention.key_length", width // heads)
    wide = head + -head % 16  # what GroupQueryAttention permits
    epsilon = fields["attention.layer_norm_rms_epsilon"]
    rotated = fields.get("rope.dimension_count", head)
    rates = fields.get("rope.freq_base", 1e4) ** (-numpy.arange(0, rotated, 2) / rotated)
    angles = numpy.pad(numpy.arange(fields["context_length"])[:, None] * rates, ((0, 0), (0, (wide - rotated) // 2)))
    cos = graph.constant("cos", numpy.cos(angles).astype(numpy.float32))
    sin = graph.constant("sin", numpy.sin(angles).astype(numpy.float32))
    options = {"num_heads": heads, "kv_num_heads": kv_heads, "scale": head**-0.5, "do_rotary": 1}
    options["rotary_interleaved"] = 1
    embedding = graph.values("token_embd.weight")
    x, added = graph.node("Gather", [graph.constant("embedding", embedding), "tokens"]), None
    for layer in range(layers):
        block = f"blk.{layer}."
        normal, x = graph.norm(x, added, f"{block}attn_norm.weight", epsilon)
        parts = {f"{block}attn_q.weight": heads, f"{block}attn_k.weight": kv_heads, f"{block}attn_v.weight": kv_heads}
        if len({graph.kind(name) for name in parts}) == 1:
            packed = graph.product(normal, *parts)
            qkv = [graph.resized(packed, heads + 2 * kv_heads, head, wide), "", ""]
        else:
            qkv = [graph.resized(graph.product(normal, name), count, head, wide) for name, count in parts.items()]
        inputs = [*qkv, f"past.{layer}.key", f"past.{layer}.value", "last", "total", cos, sin]
        outputs = [f"attention.{layer}", f"present.{layer}.key", f"present.{layer}.value"]
        found = graph.resized(graph.own("GroupQueryAttention", inputs, outputs, **options), heads, wide, head)
        added = graph.product(found, f"{block}attn_output.weight")
        normal, x = graph.norm(x, added, f"{block}ffn_norm.weight", epsilon)
        gate = graph.product(normal, f"{block}ffn_gate.weight")
        silu = graph.node("Mul", [gate, graph.node("Sigmoid", [gate])])
        gated = graph.node("Mul", [silu, graph.product(normal, f"{block}ffn_up.weight")])
        added = graph.product(gated, f"{block}ffn_down.weight")
    normal, _ = graph.norm(x, added, "output_norm.weight", epsilon)
    normal = graph.node("Gather", [normal, graph.constant("end", numpy.array([-1]))], axis=1)
    logits = graph.product(normal, "output.weight" if "output.weight" in graph.tensors else "token_embd.weight")
    graph.node("Identity", [logits], ["logits"])

    def told(name, kind, *dims):
        return helper.make_tensor_value_info(name, kind, dims)

    def caches(when):
        names = [f"{when}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
        return [told(name, TensorProto.FLOAT, 1, kv_heads, "positions", wide) for name in names]

    inputs = [told("tokens", TensorProto.INT64, 1, "count"), told("last", TensorProto.INT32, 1)]
    inputs += [told("total", TensorProto.INT32, 1), *caches("past")]
    return inputs, [told("logits", TensorProto.FLOAT, 1, 1, len(embedding)), *caches("present")]


main()
