"""Times llama.cpp (through llama-cpp-python) the way `anynpu bench` times itself.

usage: time_llama_cpp.py MODEL.gguf THREADS PROMPT_TOKENS[,…] GENERATED_TOKENS[@DEPTH] [TEXTS_AT_ONCE[,…]]
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

    def new_context(tokens, texts=1):
        options = L.llama_context_default_params()
        options.n_ctx = texts * (tokens + 8)
        options.n_seq_max = texts
        options.n_batch = options.n_ubatch = STEP
        options.n_threads = options.n_threads_batch = threads
        options.no_perf = True
        return L.llama_init_from_model(model, options)

    context = new_context(max([*prompts, depth + n_gen]))
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
    for texts in figures.sequences() if n_gen else []:
        if texts > 1:
            several = new_context(depth + n_gen, texts)
            seconds = together(several, texts, figures.tokens(n_gen, n_vocab), figures.tokens(depth, n_vocab))
            L.llama_free(several)
            figures.decode("llama.cpp", threads, n_gen, depth, seconds, texts)
            continue
        forget()
        feed(figures.tokens(depth, n_vocab))
        started = time.perf_counter()
        for token in figures.tokens(n_gen, n_vocab):
            feed([token])
        figures.decode("llama.cpp", threads, n_gen, depth, time.perf_counter() - started)


def together(context, texts, tokens, before):
    """Seconds that the tokens take in each of several texts, one of each at a time, after those before."""
    batch = L.llama_batch_init(max(STEP, texts), 0, 1)

    def feed(some):
        batch.n_tokens = len(some)
        for at, (text, position, token, wanted) in enumerate(some):
            batch.token[at], batch.pos[at], batch.logits[at] = token, position, wanted
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, text
        if L.llama_decode(context, batch) != 0:
            sys.exit("llama_decode failed")

    feed([(text, 0, tokens[0], True) for text in range(texts)])  # to warm up
    L.llama_memory_clear(L.llama_get_memory(context), True)
    for text in range(texts):
        for at in range(0, len(before), STEP):
            feed([(text, at + i, token, False) for i, token in enumerate(before[at : at + STEP])])
    started = time.perf_counter()
    for i, token in enumerate(tokens):
        feed([(text, len(before) + i, token, True) for text in range(texts)])
    seconds = time.perf_counter() - started
    L.llama_batch_free(batch)
    return seconds


main()
