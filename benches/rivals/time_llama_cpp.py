"""Times llama.cpp (through llama-cpp-python) the way `anynpu bench` times itself.

usage: time_llama_cpp.py MODEL.gguf THREADS PROMPT_TOKENS[,…] GENERATED_TOKENS[@DEPTH]
Prints one JSON object a figure, model loaded, one warm-up for each length.
"""
import sys
import time

import figures
import llama_cpp as L

STEP = 512


@L.llama_log_callback
def silent(level, text, data):
    """Keeps llama.cpp's log off the terminal."""


def main():
    path, threads, prompts, n_gen, depth = figures.arguments(__doc__)
    started = time.perf_counter()
    L.llama_log_set(silent, None)
    L.llama_backend_init()
    model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
    options = L.llama_context_default_params()
    options.n_ctx = max([*prompts, depth + n_gen]) + 8
    options.n_batch = options.n_ubatch = STEP
    options.n_threads = options.n_threads_batch = threads
    options.no_perf = True
    context = L.llama_init_from_model(model, options)
    n_vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))

    def feed(tokens):
        for at in range(0, len(tokens), STEP):
            some = tokens[at : at + STEP]
            array = (L.llama_token * len(some))(*some)
            if L.llama_decode(context, L.llama_batch_get_one(array, len(some))) != 0:
                sys.exit("llama_decode failed")

    def forget():
        L.llama_memory_clear(L.llama_get_memory(context), True)

    feed(figures.tokens(1, n_vocab))
    figures.loaded("llama.cpp", threads, time.perf_counter() - started)
    for n_prompt in prompts:
        forget()
        feed(figures.tokens(n_prompt, n_vocab))  # to warm up
        forget()
        started = time.perf_counter()
        feed(figures.tokens(n_prompt, n_vocab))
        figures.prefill("llama.cpp", threads, n_prompt, time.perf_counter() - started)
    if n_gen:
        forget()
        feed(figures.tokens(depth, n_vocab))
        started = time.perf_counter()
        for token in figures.tokens(n_gen, n_vocab):
            feed([token])
        figures.decode("llama.cpp", threads, n_gen, depth, time.perf_counter() - started)


main()
