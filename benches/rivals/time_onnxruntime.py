"""Times ONNX Runtime's CPU provider on the llama of a GGUF file as `anynpu bench` times itself.

usage: time_onnxruntime.py MODEL.gguf THREADS PROMPT_TOKENS[,…] GENERATED_TOKENS[@DEPTH]
       time_onnxruntime.py MODEL.gguf THREADS --tokens "ID …" -n COUNT
Prints one JSON object a figure, model loaded, one warm-up for each length; or the COUNT tokens that follow the given
ones, always taking the likeliest.

ONNX Runtime reads no GGUF: onnx_llama.py writes the file once as MODEL.gguf.onnx, and that is what is loaded.
"""
import subprocess
import sys
import time
from pathlib import Path

import figures
import numpy
import onnxruntime

STEP = 512
WRITER = Path(__file__).with_name("onnx_llama.py")


def main():
    if sys.argv[3:4] == ["--tokens"] and sys.argv[5:6] == ["-n"] and len(sys.argv) == 7:
        return follow(sys.argv[1], int(sys.argv[2]), [int(n) for n in sys.argv[4].split()], int(sys.argv[6]))
    path, threads, prompts, n_gen, depth = figures.arguments(__doc__)
    path = written(path)
    started = time.perf_counter()
    decoder = Decoder(path, threads, max([*prompts, depth + n_gen]) + 8)
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


def follow(path, threads, tokens, n_gen):
    decoder = Decoder(written(path), threads, len(tokens) + n_gen)
    for _ in range(n_gen):
        decoder.feed(tokens)
        tokens = [int(decoder.logits.numpy().argmax())]
        print(*tokens, end=" ", flush=True)
    print()


def written(path):
    """The model as ONNX beside the file, written by a process of its own: its memory is none of ONNX Runtime's."""
    made = Path(f"{path}.onnx")
    if not made.exists() or made.stat().st_mtime < max(Path(path).stat().st_mtime, WRITER.stat().st_mtime):
        done = subprocess.run([sys.executable, WRITER, path, made])
        if done.returncode:
            sys.exit(done.returncode)
    return made


class Decoder:
    """A session with its cache of keys and values, which the model reads and writes in place."""

    def __init__(self, path, threads, positions):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        for given in self.session.get_inputs():
            if given.name.startswith("past."):
                shape = [positions if dim == "positions" else dim for dim in given.shape]
                cache = onnxruntime.OrtValue.ortvalue_from_numpy(numpy.zeros(shape, numpy.float32))
                self.binding.bind_ortvalue_input(given.name, cache)
                self.binding.bind_ortvalue_output(given.name.replace("past", "present"), cache)
        self.n_vocab = self.session.get_outputs()[0].shape[-1]
        self.logits = onnxruntime.OrtValue.ortvalue_from_shape_and_type([1, 1, self.n_vocab], numpy.float32)
        self.binding.bind_ortvalue_output("logits", self.logits)
        self.past = 0

    def feed(self, tokens):
        """Takes these tokens in after those before; `logits` are then the last one's."""
        for at in range(0, len(tokens), STEP):
            some = tokens[at : at + STEP]
            self.past += len(some)
            self.binding.bind_cpu_input("tokens", numpy.array([some], numpy.int64))
            self.binding.bind_cpu_input("last", numpy.array([self.past - 1], numpy.int32))
            self.binding.bind_cpu_input("total", numpy.array([self.past], numpy.int32))
            self.session.run_with_iobinding(self.binding)


main()
