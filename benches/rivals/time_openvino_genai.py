"""Times OpenVINO GenAI on a GGUF file, which its own reader loads, as `anynpu bench` times itself.

usage: time_openvino_genai.py MODEL.gguf THREADS PROMPT_TOKENS[,…] GENERATED_TOKENS[@DEPTH]
Prints one JSON object a figure, model loaded, one warm-up for each length.
"""
import sys
import time

import figures
import numpy
import openvino
import openvino_genai


def main():
    path, threads, prompts, n_gen, depth = figures.arguments(__doc__)
    started = time.perf_counter()
    pipeline = openvino_genai.LLMPipeline(
        path, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    )

    def generate(n_prompt, n_gen, step=1):
        """Seconds to the first token, and for each later one. Prompts of another step share no cached prefix."""
        tokens = numpy.array([figures.tokens(n_prompt, 32000)[::step]], dtype=numpy.int64)
        inputs = openvino_genai.TokenizedInputs(
            openvino.Tensor(tokens), openvino.Tensor(numpy.ones_like(tokens))
        )
        options = openvino_genai.GenerationConfig()
        options.max_new_tokens = n_gen
        options.min_new_tokens = n_gen
        options.ignore_eos = True
        options.do_sample = False
        options.apply_chat_template = False
        metrics = pipeline.generate(inputs, options).perf_metrics
        return metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3

    generate(8, 2)
    figures.loaded("openvino-genai", threads, time.perf_counter() - started)
    for n_prompt in prompts:
        generate(n_prompt, 1, step=-1)
        figures.prefill("openvino-genai", threads, n_prompt, generate(n_prompt, 1)[0])
    if n_gen:
        _, each = generate(max(depth, 1), n_gen + 1)
        figures.decode("openvino-genai", threads, n_gen, depth, n_gen * each)


main()
