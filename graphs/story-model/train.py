# SPDX-License-Identifier: MIT OR Apache-2.0
"""Trains the vocabulary and the story model from scratch.

    python train.py --out build            # the full run
    python train.py --out quick --minutes 3

Writes `weights.npz`, `merges.json`, `held_out.json` (the stories kept out of
training) and `log.json` to the output folder. The run is bounded by the number
of steps, not by the clock, so that it can be repeated; `--minutes` replaces the
number of steps by what fits into that time and is for trying things out.
"""

import argparse
import json
import math
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import corpus
from model import Config, init, nll
from tokenizer import BEGIN, END, Tokenizer

SEED = 20261122
HELD_OUT = 400
TOKENS_PER_STEP = 1280
LENGTHS = (256, 304, 352, 400, 512)
JOINED = 0.05  # share of the stories that are trained as part of a full row of 512 tokens
PEAK_RATE, FINAL_RATE, WARM_UP = 2.5e-3, 5e-5, 150
BETA1, BETA2, WEIGHT_DECAY, CLIP = 0.9, 0.98, 0.1, 1.0


def held_out_split(stories: list[str], seed: int) -> tuple[list[str], list[str]]:
    """Training stories and `HELD_OUT` others, drawn by `seed`."""
    order = np.random.default_rng(seed).permutation(len(stories))
    return [stories[i] for i in order[HELD_OUT:]], [stories[i] for i in order[:HELD_OUT]]


def rows_by_length(encoded: list[list[int]], rng: np.random.Generator) -> list[np.ndarray]:
    """Batches [B, S + 1] for one pass over `encoded`, padded with -1, in random order.

    Most rows hold one story from its begin to its end token. The others hold
    several, one after another, so that every position is trained.
    """
    bins: dict[int, list[np.ndarray]] = {length: [] for length in LENGTHS}
    stream: list[int] = []
    for i in rng.permutation(len(encoded)):
        if rng.random() < JOINED:
            stream += encoded[i]
            continue
        ids = encoded[i][: LENGTHS[-1] + 1]
        length = next(n for n in LENGTHS if len(ids) <= n + 1)
        bins[length].append(np.pad(ids, (0, length + 1 - len(ids)), constant_values=-1))
    last = LENGTHS[-1]
    bins[last] += [np.array(stream[i : i + last + 1]) for i in range(0, len(stream) - last, last)]
    batches = []
    for length, rows in bins.items():
        size = TOKENS_PER_STEP // length
        batches += [np.stack(rows[i : i + size]).astype(np.int32) for i in range(0, len(rows) - size + 1, size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def rate(step: int, steps: int) -> float:
    """Learning rate: linear warm-up, then a cosine down to `FINAL_RATE`."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return FINAL_RATE + (PEAK_RATE - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def make_step(cfg: Config):
    """The jitted AdamW step: (params, first, second, rows, rate, step) -> (params, first, second, loss)."""

    def loss_of(params, rows):
        total, count = nll(cfg, params, rows)
        return total / count

    def step(params, first, second, rows, learning_rate, number):
        loss, grads = jax.value_and_grad(loss_of)(params, rows)
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in grads.values()))
        scale = jnp.minimum(1.0, CLIP / (norm + 1e-6))
        new = ({}, {}, {})
        for name, grad in grads.items():
            grad = grad * scale
            m = BETA1 * first[name] + (1 - BETA1) * grad
            v = BETA2 * second[name] + (1 - BETA2) * grad * grad
            update = (m / (1 - BETA1**number)) / (jnp.sqrt(v / (1 - BETA2**number)) + 1e-8)
            decay = WEIGHT_DECAY if params[name].ndim == 2 else 0.0
            new[0][name] = params[name] - learning_rate * (update + decay * params[name])
            new[1][name], new[2][name] = m, v
        return *new, loss

    return jax.jit(step, donate_argnums=(0, 1, 2))


def held_out_loss(cfg: Config, params, encoded: list[list[int]]) -> float:
    """Mean negative log-likelihood per predicted token, each story from its begin token on."""
    measure = jax.jit(lambda p, r: nll(cfg, p, r))
    total, count = 0.0, 0
    for i in range(0, len(encoded), 8):
        rows = np.full((8, cfg.context + 1), -1, np.int32)
        for row, ids in zip(rows, encoded[i : i + 8]):
            ids = ids[: cfg.context + 1]
            row[: len(ids)] = ids
        a, b = measure(params, rows)
        total, count = total + float(a), count + int(b)
    return total / count


def main() -> None:
    """Command line."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build"))
    arguments.add_argument("--seed", type=int, default=SEED)
    arguments.add_argument("--stories", type=int, default=16000)
    arguments.add_argument("--steps", type=int, default=1500)
    arguments.add_argument("--minutes", type=float, help="time instead of steps, for trying things out")
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)

    training, held_out = held_out_split(corpus.corpus(given.seed, given.stories), given.seed)
    cfg = Config()
    tokenizer = Tokenizer.train(training[:8000], cfg.vocab)
    tokenizer.save(given.out / "merges.json")
    (given.out / "held_out.json").write_text(json.dumps(held_out, indent=0))
    encoded = [[BEGIN, *tokenizer.encode(text), END] for text in training]
    tokens = sum(map(len, encoded))
    print(f"{len(encoded)} stories, {tokens} tokens, {tokens / len(encoded):.0f} per story, devices {jax.devices()}", flush=True)

    params = {name: jnp.asarray(value) for name, value in init(cfg, given.seed).items()}
    first = {name: jnp.zeros_like(value) for name, value in params.items()}
    second = {name: jnp.zeros_like(value) for name, value in params.items()}
    step = make_step(cfg)
    rng = np.random.default_rng(given.seed + 1)
    batches: list[np.ndarray] = []
    log, seen, recent, start = [], 0, [], time.time()
    number, steps = 0, given.steps
    while number < steps:
        batches = batches or rows_by_length(encoded, rng)
        rows = batches.pop()
        elapsed = time.time() - start
        if given.minutes:
            steps = max(number + 1, int(number * given.minutes * 60 / elapsed)) if number > 60 else 10**6
        params, first, second, loss = step(params, first, second, rows, rate(number, steps), number + 1.0)
        number += 1
        seen += int((rows >= 0).sum())
        recent.append(float(loss))
        if number % 50 == 0 or number >= steps:
            log.append({"step": number, "tokens": seen, "seconds": round(time.time() - start), "loss": round(float(np.mean(recent)), 4)})
            print(json.dumps(log[-1]), flush=True)
            recent = []
        if number % 250 == 0:
            np.savez(given.out / "weights.npz", **{name: np.asarray(value) for name, value in params.items()})
    weights = {name: np.asarray(value) for name, value in params.items()}
    np.savez(given.out / "weights.npz", **weights)
    loss = held_out_loss(cfg, weights, [[BEGIN, *tokenizer.encode(text), END] for text in held_out])
    summary = {"seed": given.seed, "steps": number, "tokens": seen, "seconds": round(time.time() - start), "held_out_nll": loss, "held_out_perplexity": math.exp(loss), "jax": jax.__version__, "log": log}
    (given.out / "log.json").write_text(json.dumps(summary, indent=1))
    print(f"held-out perplexity {math.exp(loss):.4f} after {summary['seconds']} s")


if __name__ == "__main__":
    main()
