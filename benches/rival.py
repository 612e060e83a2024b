"""Times llama.cpp (through llama-cpp-python) the way `anynpu bench` times itself.

usage: rival.py MODEL.gguf THREADS PROMPT_TOKENS GENERATED_TOKENS
Prints one JSON object: prefill and decode tokens per second of one run, model loaded, one warm-up.
"""
import json
import sys
import time

import llama_cpp as L


@L.llama_log_callback
def silent(level, text, data):
    """Keeps llama.cpp's log off the terminal."""


def main():
    path, threads, n_prompt, n_gen = sys.argv[1], *map(int, sys.argv[2:5])
    L.llama_log_set(silent, None)
    L.llama_backend_init()
    model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
    options = L.llama_context_default_params()
    options.n_ctx = max(n_prompt, n_gen) + 8
    options.n_batch = options.n_ubatch = 512
    options.n_threads = options.n_threads_batch = threads
    options.no_perf = True
    context = L.llama_init_from_model(model, options)
    vocabulary = L.llama_model_get_vocab(model)
    n_vocab = L.llama_vocab_n_tokens(vocabulary)

    def decode(tokens):
        array = (L.llama_token * len(tokens))(*tokens)
        if L.llama_decode(context, L.llama_batch_get_one(array, len(tokens))) != 0:
            sys.exit("llama_decode failed")

    def forget():
        L.llama_memory_clear(L.llama_get_memory(context), True)

    tokens = [(i * 7919 + 13) % n_vocab for i in range(max(n_prompt, n_gen, 1))]
    decode(tokens[:1])
    forget()
    result = {"engine": "llama.cpp", "n_threads": threads}
    if n_prompt:
        started = time.perf_counter()
        for at in range(0, n_prompt, 512):
            decode(tokens[at : min(at + 512, n_prompt)])
        result["prefill_tok_s"] = n_prompt / (time.perf_counter() - started)
        forget()
    if n_gen:
        started = time.perf_counter()
        for token in tokens[:n_gen]:
            decode([token])
        result["decode_tok_s"] = n_gen / (time.perf_counter() - started)
    print(json.dumps(result))


main()
