"""Times ONNX Runtime's CPU provider on the model of a GGUF file as `anynpu bench` times itself.

usage: time_onnxruntime.py MODEL.gguf THREADS PROMPT_TOKENS[,…] GENERATED_TOKENS[@DEPTH]
       time_onnxruntime.py MODEL.gguf THREADS --tokens "ID …" -n COUNT
Prints one JSON object a figure, model loaded, one warm-up for each length; or the tokens that follow the given ones,
always taking the likeliest.

ONNX Runtime reads no GGUF. A llama is written once as MODEL.gguf.onnx, with its weights in MODEL.gguf.onnx.data, in the
operators that ONNX Runtime's generator of language models takes for CPUs; loading is timed from that file on. Weights
keep their values: Q4_0 is MatMulNBits of 4 bits, Q8_0, Q5_0 and Q6_K of 8 bits (all with 8-bit activations), F32, F16
and BF16 a product in f32. Other types and other architectures are refused: Q4_K's minimum is no whole zero point.
"""
import multiprocessing
import sys
import time
from pathlib import Path

import figures
import numpy
import onnxruntime

STEP = 512  # tokens of a prompt at a time
NBITS = {"Q4_0": (4, 32), "Q8_0": (8, 32), "Q5_0": (8, 32), "Q6_K": (8, 16)}  # bits of a weight, weights of a scale
PLAIN = ("F32", "F16", "BF16")


class Graph:
    """An ONNX graph in the making. Large constants go to the file beside it at once."""

    def __init__(self, reader, data):
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.data = data
        self.nodes, self.constants = [], []

    def constant(self, name, array):
        from onnx import TensorProto, helper, numpy_helper

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

    def node(self, operator, inputs, *outputs, domain="", **attributes):
        """Adds a node; its first output, which is named after the node's place unless named."""
        from onnx import helper

        outputs = outputs or (f"{operator}.{len(self.nodes)}",)
        self.nodes.append(helper.make_node(operator, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def own(self, operator, inputs, *outputs, **attributes):
        return self.node(operator, inputs, *outputs, domain="com.microsoft", **attributes)

    def values(self, name):
        """A tensor of the file in f32."""
        import gguf

        tensor = self.tensors[name]
        return gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])

    def product(self, x, name):
        """`x` by the matrix of that name: its rows are the outputs."""
        tensor = self.tensors[name]
        kind = tensor.tensor_type.name
        values = self.values(name)
        rows, columns = values.shape
        if kind in PLAIN:
            return self.node("MatMul", [x, self.constant(name, values.T)])
        bits, block = NBITS[kind]
        scales = scales_of(tensor.data, kind).reshape(rows, -1)
        numbers = values.reshape(rows, -1, block) / numpy.where(scales, scales, 1)[..., None]
        codes = (numpy.rint(numbers) + (1 << bits - 1)).astype(numpy.uint8)
        if bits == 4:
            codes = codes[..., ::2] | codes[..., 1::2] << 4
        inputs = [x, self.constant(name, codes), self.constant(f"{name}.scales", scales)]
        options = {"K": columns, "N": rows, "bits": bits, "block_size": block, "accuracy_level": 4}
        return self.own("MatMulNBits", inputs, **options)


def scales_of(blocks, kind):
    """The factors of a tensor's blocks, in order. https://github.com/ggml-org/ggml, ggml-common.h."""
    if kind != "Q6_K":
        size = {"Q4_0": 18, "Q5_0": 22, "Q8_0": 34}[kind]
        return blocks.reshape(-1, size)[:, :2].copy().view(numpy.float16).astype(numpy.float32)
    blocks = blocks.reshape(-1, 210)
    return blocks[:, 208:].copy().view(numpy.float16).astype(numpy.float32) * blocks[:, 192:208].view(numpy.int8)


def convert(source, target):
    """Writes the llama of a GGUF file as an ONNX model; exits with a word on why it can't."""
    import gguf
    from onnx import TensorProto, helper, save

    reader = gguf.GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items() if "tokenizer" not in name}
    family = fields["general.architecture"]
    known = set(PLAIN) | set(NBITS)
    for tensor in reader.tensors:
        if tensor.tensor_type.name not in known:
            sys.exit(f"{tensor.name} is {tensor.tensor_type.name}, which MatMulNBits cannot hold; it can {sorted(known)}")
    if family != "llama" or fields.get("llama.rope.scaling.type", "none") != "none":
        sys.exit(f"this program writes llamas without scaled positions, not {family}")
    layers, heads = fields["llama.block_count"], fields["llama.attention.head_count"]
    kv_heads = fields.get("llama.attention.head_count_kv", heads)
    head = fields.get("llama.attention.key_length", fields["llama.embedding_length"] // heads)
    wide = head + -head % 16  # what GroupQueryAttention permits
    epsilon = fields["llama.attention.layer_norm_rms_epsilon"]
    with open(f"{target}.data", "wb") as data:
        graph = Graph(reader, data)
        rotated = fields.get("llama.rope.dimension_count", head)
        rates = fields.get("llama.rope.freq_base", 1e4) ** (-numpy.arange(0, rotated, 2) / rotated)
        angles = numpy.arange(fields["llama.context_length"])[:, None] * rates
        angles = numpy.pad(angles, ((0, 0), (0, (wide - rotated) // 2)))
        cos = graph.constant("cos", numpy.cos(angles).astype(numpy.float32))
        sin = graph.constant("sin", numpy.sin(angles).astype(numpy.float32))
        last = graph.constant("last", numpy.array([-1]))
        x = graph.node("Gather", [graph.constant("token_embd", graph.values("token_embd.weight")), "tokens"])
        used = {"token_embd.weight"}

        def norm(x, added, name):
            """The normalised sum, and the sum."""
            used.add(name)
            weight = graph.constant(name, graph.values(name))
            if added is None:
                return graph.node("SimplifiedLayerNormalization", [x, weight], axis=-1, epsilon=epsilon), x
            outputs = [f"{name}.normal", "", "", f"{name}.sum"]
            graph.own("SkipSimplifiedLayerNormalization", [x, added, weight], *outputs, epsilon=epsilon)
            return outputs[0], outputs[3]

        def product(x, name):
            used.add(name)
            return graph.product(x, name)

        def resized(x, count, old, new):
            """Heads of another size: zeros added, or left off."""
            if old == new:
                return x
            shapes = [graph.constant(f"{x}.{size}", numpy.array([1, -1, *size])) for size in ((count, old), (count * new,))]
            pads = graph.constant(f"{x}.pads", numpy.array([0] * 7 + [new - old]))
            return graph.node("Reshape", [graph.node("Pad", [graph.node("Reshape", [x, shapes[0]]), pads]), shapes[1]])

        added = None
        for layer in range(layers):
            block = f"blk.{layer}."
            normal, x = norm(x, added, f"{block}attn_norm.weight")
            counts = {"q": heads, "k": kv_heads, "v": kv_heads}
            inputs = [resized(product(normal, f"{block}attn_{k}.weight"), n, head, wide) for k, n in counts.items()]
            inputs += [f"past.{layer}.key", f"past.{layer}.value", "before", "total", cos, sin]
            outputs = [f"{block}attention", f"present.{layer}.key", f"present.{layer}.value"]
            options = {"num_heads": heads, "kv_num_heads": kv_heads, "do_rotary": 1, "rotary_interleaved": 1}
            graph.own("GroupQueryAttention", inputs, *outputs, scale=head**-0.5, **options)
            added = product(resized(outputs[0], heads, wide, head), f"{block}attn_output.weight")
            normal, x = norm(x, added, f"{block}ffn_norm.weight")
            gate = product(normal, f"{block}ffn_gate.weight")
            silu = graph.node("Mul", [gate, graph.node("Sigmoid", [gate])])
            gated = graph.node("Mul", [silu, product(normal, f"{block}ffn_up.weight")])
            added = product(gated, f"{block}ffn_down.weight")
        normal, _ = norm(x, added, "output_norm.weight")
        normal = graph.node("Gather", [normal, last], axis=1)
        logits = product(normal, "output.weight" if "output.weight" in graph.tensors else "token_embd.weight")
        graph.node("Identity", [logits], "logits")
    if unused := sorted(graph.tensors.keys() - used):
        sys.exit(f"{unused[0]} has no place in the llama that this program writes")

    def told(name, kind, *dims):
        return helper.make_tensor_value_info(name, kind, dims)

    def caches(when):
        names = [f"{when}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
        return [told(name, TensorProto.FLOAT, 1, kv_heads, "positions", wide) for name in names]

    rows = len(graph.values("token_embd.weight"))
    inputs = [told("tokens", TensorProto.INT64, 1, "count"), told("before", TensorProto.INT32, 1)]
    inputs += [told("total", TensorProto.INT32, 1), *caches("past")]
    outputs = [told("logits", TensorProto.FLOAT, 1, 1, rows), *caches("present")]
    made = helper.make_graph(graph.nodes, "llama", inputs, outputs, graph.constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    save(helper.make_model(made, opset_imports=opsets, ir_version=10), target)


class Decoder:
    """A session with its cache of keys and values, which the graph reads and writes in place."""

    def __init__(self, path, threads, positions):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        for given in self.session.get_inputs():
            if given.name.startswith("past."):
                shape = [positions if isinstance(dim, str) else dim for dim in given.shape]
                cache = onnxruntime.OrtValue.ortvalue_from_numpy(numpy.zeros(shape, numpy.float32))
                self.binding.bind_ortvalue_input(given.name, cache)
                self.binding.bind_ortvalue_output(given.name.replace("past", "present"), cache)
        self.n_vocab = self.session.get_outputs()[0].shape[-1]
        self.logits = onnxruntime.OrtValue.ortvalue_from_shape_and_type([1, 1, self.n_vocab], numpy.float32)
        self.binding.bind_ortvalue_output("logits", self.logits)
        self.past = 0

    def feed(self, tokens):
        """Takes these tokens in after the ones before; the logits of the last are there after it."""
        for at in range(0, len(tokens), STEP):
            some = tokens[at : at + STEP]
            self.past += len(some)
            self.binding.bind_cpu_input("tokens", numpy.array([some], numpy.int64))
            self.binding.bind_cpu_input("before", numpy.array([self.past - 1], numpy.int32))
            self.binding.bind_cpu_input("total", numpy.array([self.past], numpy.int32))
            self.session.run_with_iobinding(self.binding)


def main():
    greedy = sys.argv[3:4] == ["--tokens"] and sys.argv[5:6] == ["-n"]
    if greedy:
        path, threads, given, n_gen = sys.argv[1], int(sys.argv[2]), [int(n) for n in sys.argv[4].split()], int(sys.argv[6])
        longest = len(given) + n_gen
    else:
        path, threads, prompts, n_gen, depth = figures.arguments(__doc__)
        longest = max([*prompts, depth + n_gen]) + 8
    made = Path(f"{path}.onnx")
    newest = max(Path(path).stat().st_mtime, Path(__file__).stat().st_mtime)
    if not made.exists() or made.stat().st_mtime < newest:  # by another process, whose memory does not count here
        other = multiprocessing.get_context("spawn").Process(target=convert, args=(path, str(made)))
        other.start()
        other.join()
        if other.exitcode:
            sys.exit(other.exitcode)

    started = time.perf_counter()
    decoder = Decoder(str(made), threads, longest)
    if greedy:
        decoder.feed(given)
        for _ in range(n_gen):
            token = int(decoder.logits.numpy().argmax())
            print(token, end=" ", flush=True)
            decoder.feed([token])
        return print()
    decoder.feed(figures.tokens(1, decoder.n_vocab))
    figures.loaded("onnxruntime", threads, time.perf_counter() - started)
    for n_prompt in prompts:
        decoder.past = 0
        decoder.feed(figures.tokens(n_prompt, decoder.n_vocab)[::-1])  # to warm up
        decoder.past = 0
        started = time.perf_counter()
        decoder.feed(figures.tokens(n_prompt, decoder.n_vocab))
        figures.prefill("onnxruntime", threads, n_prompt, time.perf_counter() - started)
    if n_gen:
        decoder.past = 0
        decoder.feed(figures.tokens(depth, decoder.n_vocab))
        started = time.perf_counter()
        for token in figures.tokens(n_gen, decoder.n_vocab):
            decoder.feed([token])
        figures.decode("onnxruntime", threads, n_gen, depth, time.perf_counter() - started)


if __name__ == "__main__":
    main()
