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
from model import Config, init, token_losses
from tokenizer import BEGIN, END, Tokenizer

SEED = 20261122
HELD_OUT = 400
STEPS = 1000
TOKENS_PER_STEP = 2304  # padding included, at most
LENGTHS = (192, 224, 256, 512)
JOINED = 0.05  # share of the stories that are trained as part of a full row of 512 tokens
CAST_WEIGHT = 3.0  # of a word of the cast that its row already holds; other tokens weigh 1
PEAK_RATE, FINAL_RATE, WARM_UP = 2.5e-3, 3e-5, 100
BETA1, BETA2, WEIGHT_DECAY, CLIP = 0.9, 0.98, 0.1, 1.0
MOMENTUM = 0.95


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


def cast_tokens(tokenizer: Tokenizer) -> np.ndarray:
    """Ids of the words of the cast: names, pronouns, animals, things and places. Each is one token."""
    words = [*corpus.GIRLS, *corpus.BOYS, *corpus.ANIMAL_NAMES, *corpus.ANIMALS, *corpus.ELDERS]
    words += ["he", "she", "him", "her", "his", "He", "She", "His", "Her"]
    words += [noun for noun, *_ in corpus.THINGS]
    words += [word for choices in corpus.LINKED for choice in choices for key, word in choice.items() if key in "bls"]
    words += [place.split()[-1] for _, _, spots, fars, ways, _ in corpus.SETTINGS for place in spots + fars + ways]
    encoded = {word: tokenizer.encode(" " + word) for word in words}
    broken = [word for word, ids in encoded.items() if len(ids) > 1]
    if broken:
        raise ValueError(f"more than one token: {broken}")
    return np.array(sorted({ids[0] for ids in encoded.values()}))


def weights_of(rows: np.ndarray, cast: np.ndarray) -> np.ndarray:
    """The weight [B, S] of each predicted token of `rows` [B, S + 1]."""
    again = np.ones(rows.shape, bool)
    for row, seen in zip(rows, again):
        seen[np.unique(row, return_index=True)[1]] = False
    return np.where(again & np.isin(rows, cast), CAST_WEIGHT, 1.0).astype(np.float32)[:, 1:]


def make_gradient(cfg: Config):
    """The jitted (params, rows, weights) -> ((mean loss, mean loss of the heavier tokens), gradients)."""

    def loss_of(params, rows, weights):
        losses, counts = token_losses(cfg, params, rows)
        heavy = counts & (weights > 1)
        shown = jnp.sum(losses * counts) / jnp.sum(counts), jnp.sum(losses * heavy) / jnp.sum(heavy)
        return jnp.sum(losses * counts * weights) / jnp.sum(counts * weights), shown

    def gradient(params, rows, weights):
        (_, shown), grads = jax.value_and_grad(loss_of, has_aux=True)(params, rows, weights)
        return shown, grads

    return jax.jit(gradient)


def orthogonal(matrices):
    """Roughly the nearest orthogonal matrix of each of `matrices` [N, a, b], by Newton-Schulz steps."""
    x = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.transpose(0, 2, 1)
    x = x / (jnp.sqrt(jnp.sum(x * x, axis=(1, 2), keepdims=True)) + 1e-7)
    for _ in range(5):
        square = x @ x.transpose(0, 2, 1)
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x if matrices.shape[1] <= matrices.shape[2] else x.transpose(0, 2, 1)


def update(params, first, second, grads, learning_rate, number):
    """One optimiser step: Muon for the layers' matrices, AdamW for the embedding and the norms.

    Muon moves a matrix along the orthogonalised momentum, scaled so that the root mean square
    of the step is that of AdamW (0.2). `second` is not used for its matrices.
    """
    scale = jnp.minimum(1.0, CLIP / (jnp.sqrt(sum(jnp.sum(g * g) for g in grads.values())) + 1e-6))
    grads = {name: grad * scale for name, grad in grads.items()}
    moves, by_shape = {}, {}
    new_first, new_second = dict(first), dict(second)
    for name, grad in grads.items():
        if grad.ndim == 2 and name.startswith("blk."):
            new_first[name] = MOMENTUM * first[name] + grad
            by_shape.setdefault(grad.shape, []).append(name)
            continue
        new_first[name] = m = BETA1 * first[name] + (1 - BETA1) * grad
        new_second[name] = v = BETA2 * second[name] + (1 - BETA2) * grad * grad
        moves[name] = (m / (1 - BETA1**number)) / (jnp.sqrt(v / (1 - BETA2**number)) + 1e-8)
    for shape, names in by_shape.items():
        stacked = jnp.stack([grads[name] + MOMENTUM * new_first[name] for name in names])
        moves |= zip(names, 0.2 * max(shape) ** 0.5 * orthogonal(stacked))
    decay = {name: WEIGHT_DECAY if grad.ndim == 2 else 0.0 for name, grad in grads.items()}
    new_params = {name: p - learning_rate * (moves[name] + decay[name] * p) for name, p in params.items()}
    return new_params, new_first, new_second


def held_out_loss(cfg: Config, params, encoded: list[list[int]]) -> float:
    """Mean negative log-likelihood per predicted token, each story from its begin token on."""
    measure = jax.jit(lambda p, r: token_losses(cfg, p, r))
    total, count = 0.0, 0
    for i in range(0, len(encoded), 8):
        rows = np.full((8, max(map(len, encoded))), -1, np.int32)
        for row, ids in zip(rows, encoded[i : i + 8]):
            row[: len(ids)] = ids
        losses, counts = map(np.asarray, measure(params, rows))
        total, count = total + float(losses[counts].sum()), count + int(counts.sum())
    return total / count


def main() -> None:
    """Command line."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build"))
    arguments.add_argument("--seed", type=int, default=SEED)
    arguments.add_argument("--stories", type=int, default=16000)
    arguments.add_argument("--steps", type=int, default=STEPS)
    arguments.add_argument("--minutes", type=float, help="time instead of steps, for trying things out")
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)

    training, held_out = held_out_split(corpus.corpus(given.seed, given.stories), given.seed)
    cfg = Config()
    tokenizer = Tokenizer.train(training, cfg.vocab)
    tokenizer.save(given.out / "merges.json")
    (given.out / "held_out.json").write_text(json.dumps(held_out, indent=0))
    encoded = [[BEGIN, *tokenizer.encode(text), END] for text in training]
    tokens = sum(map(len, encoded))
    print(f"{len(encoded)} stories, {tokens} tokens, {tokens / len(encoded):.0f} per story, devices {jax.devices()}", flush=True)

    cast = cast_tokens(tokenizer)
    params = {name: jnp.asarray(value) for name, value in init(cfg, given.seed).items()}
    first = {name: jnp.zeros_like(value) for name, value in params.items()}
    second = {name: jnp.zeros_like(value) for name, value in params.items()}
    gradient, move = make_gradient(cfg), jax.jit(update, donate_argnums=(0, 1, 2))
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
        shown, grads = gradient(params, rows, weights_of(rows, cast))
        params, first, second = move(params, first, second, grads, rate(number, steps), number + 1.0)
        number += 1
        seen += int((rows >= 0).sum())
        recent.append([float(value) for value in shown])
        if number % 50 == 0 or number >= steps:
            loss, cast_loss = np.mean(recent, axis=0).round(4).tolist()
            log.append({"step": number, "tokens": seen, "seconds": round(time.time() - start), "loss": loss, "cast_loss": cast_loss})
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
