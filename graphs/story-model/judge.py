# SPDX-License-Identifier: MIT OR Apache-2.0
"""Judges whether a story model keeps its cast: names, pronouns, things.

    python judge.py --model story-Q8_0.gguf --weights build --anynpu ../../target/release/anynpu

Cast accuracy is measured on the held-out stories: the share of later mentions of a word of the cast that are
the model's first choice, token by token, given the true text before them. The sampled stories
come from `anynpu run` with its default sampling and the seeds 1, 2, 3 and so on.
"""

import argparse
import collections
import json
import pathlib
import re
import subprocess

import gguf
import jax
import numpy as np

import corpus
from model import Config, forward
from tokenizer import BEGIN, Tokenizer

NAMES = {*corpus.GIRLS, *corpus.BOYS, *corpus.ANIMAL_NAMES}
THINGS = {noun for noun, *_ in corpus.THINGS}
# The near and the far places of each setting; a story has one near and one far place.
PLACES = [[*setting[column]] for setting in corpus.SETTINGS for column in (2, 3)]
SHE, HE = {"she", "her", "herself"}, {"he", "him", "his", "himself"}
# A later mention counts by group: a pronoun once its sex is known, the others word by word.
GROUPS = {"names": NAMES, "things": THINGS, "animals": {*corpus.ANIMALS}, "pronouns": SHE | HE}
_INTRODUCED = r"\b(?:called|named|lived|friend|name is) {0}\b|\b{0},? (?:the|was|lived)\b"


def words(text: str) -> list[tuple[str, int]]:
    """The words of `text` and where each begins."""
    return [(m.group(), m.start()) for m in re.finditer(r"[A-Za-z]+", text)]


def read(path: pathlib.Path):
    """Sizes, weights and tokenizer of a GGUF file."""
    reader = gguf.GGUFReader(path)
    weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    field = lambda key: reader.fields[key].contents()
    cfg = Config(
        vocab=len(weights["token_embd.weight"]), hidden=field("llama.embedding_length"), layers=field("llama.block_count"),
        heads=field("llama.attention.head_count"), kv_heads=field("llama.attention.head_count_kv"),
        ffn=field("llama.feed_forward_length"), context=field("llama.context_length"),
        eps=field("llama.attention.layer_norm_rms_epsilon"), rope_base=field("llama.rope.freq_base"),
    )  # fmt: skip
    return cfg, weights, Tokenizer([tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")])


def cast_accuracy(cfg: Config, weights, tokenizer: Tokenizer, stories: list[str]) -> dict:
    """Per group the number of later mentions and the share of them whose every token is the first choice."""
    run = jax.jit(lambda w, ids: forward(cfg, w, ids).argmax(-1))
    right, count = collections.Counter(), collections.Counter()
    for text in stories:
        ids = [BEGIN, *tokenizer.encode(text)][: cfg.context]
        best = np.asarray(run(weights, np.pad(ids, (0, cfg.context - len(ids)))[None]))[0]
        ends = np.cumsum([len(tokenizer.decode([i])) for i in ids[1:]])
        seen = set()
        for word, start in words(text):
            group = next((g for g, known in GROUPS.items() if (word.lower() if g == "pronouns" else word) in known), None)
            if group is None:
                continue
            key = group if group == "pronouns" else word
            if key in seen and start + len(word) <= ends[-1]:
                first, last = np.searchsorted(ends, start + 1), np.searchsorted(ends, start + len(word))
                count[group] += 1
                right[group] += all(best[i] == ids[i + 1] for i in range(first, last + 1))
            seen.add(key)
    total = {"all": {"mentions": count.total(), "right": right.total() / count.total()}}
    return total | {g: {"mentions": n, "right": right[g] / n} for g, n in count.items()}


def faults(text: str, known: set[str]) -> list[str]:
    """What is wrong with the cast of one told story; the hero is the first name in it."""
    found = []
    told = [w for w, _ in words(text)]
    names = [w for w in told if w in NAMES]
    if not names:
        return ["no hero"]
    hero = names[0]
    for name in dict.fromkeys(names[1:]):
        if name != hero and not re.search(_INTRODUCED.format(name), text):
            found.append(f"{name} was never introduced")
    half = [w for w, at in words(text) if at >= len(text) // 2]
    if hero not in half:
        found.append(f"{hero} is gone from the second half")
    if len(set(names)) > 2:
        found.append(f"{len(set(names))} names")
    # Sentences that name the hero and no one else tell the hero's pronoun.
    uses = collections.Counter()
    for sentence in re.split(r"(?<=[.!?])\"?\s", text):
        inside = {w for w, _ in words(sentence)}
        if inside & NAMES == {hero} and not inside & OTHERS:
            lower = [w.lower() for w, _ in words(sentence)]
            uses.update("she" if w in SHE else "he" for w in lower if w in SHE | HE)
    child = next((w for w in told if w in ("girl", "boy")), None)
    sex = {"girl": "she", "boy": "he"}.get(child)
    if len(uses) > 1 or (sex and uses and sex not in uses):
        found.append(f"pronouns of {hero}: {dict(uses)}")
    for kind, held in (("things", THINGS), ("animals", {*corpus.ANIMALS})):
        if len(held & {*told}) > 1:
            found.append(f"{kind}: {sorted(held & {*told})}")
    for places in PLACES:
        seen = [place for place in places if re.search(rf"\b{place}\b", text)]
        if len(seen) > 1:
            found.append(f"places: {seen}")
    broken = sorted({w for w in told if w not in known})
    if broken:
        found.append(f"words that no story holds: {broken}")
    return found


OTHERS = {w for elder in corpus.ELDERS for w in (elder if isinstance(elder, str) else elder[0]).split() if w != "the"}


def main() -> None:
    """Command line."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--model", type=pathlib.Path, default=pathlib.Path("story-Q8_0.gguf"))
    arguments.add_argument("--weights", type=pathlib.Path, default=pathlib.Path("build"), help="folder with held_out.json")
    arguments.add_argument("--anynpu", type=pathlib.Path, required=True)
    arguments.add_argument("--held-out", type=int, default=100)
    arguments.add_argument("--told", type=int, default=40)
    arguments.add_argument("--show", action="store_true", help="print every told story")
    given = arguments.parse_args()
    stories = json.loads((given.weights / "held_out.json").read_text())
    for group, found in cast_accuracy(*read(given.model), stories[: given.held_out]).items():
        print(f"cast accuracy, {group}: {found['right']:.3f} of {found['mentions']}")
    known = {w for text in corpus.corpus(1, 12000) for w, _ in words(text)}
    good, named, kinds = 0, 0, collections.Counter()
    for seed in range(1, given.told + 1):
        command = [given.anynpu, "run", given.model, "--seed", str(seed)]
        # A story that fills the context without an end is a failure of the program.
        run = subprocess.run(command, capture_output=True, text=True)
        text = run.stdout
        found = faults(text, known) + ["no end"] * (run.returncode != 0)
        good += not found
        named += not any(re.search("name|hero|pronoun|introduced|gone", fault) for fault in found)
        kinds.update(re.sub(r"\b[A-Z]\w+\b|[\[{:].*|\d+", "", f).strip() for f in found)
        if found or given.show:
            print(f"seed {seed}: {'; '.join(found)}")
        if given.show:
            print(text)
    print(f"{named} of {given.told} told stories keep names and pronouns; {good} have no fault at all; faults: {dict(kinds)}")


if __name__ == "__main__":
    main()
