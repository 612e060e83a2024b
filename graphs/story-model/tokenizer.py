# SPDX-License-Identifier: MIT OR Apache-2.0
"""Byte-level byte-pair encoding with GPT-2's byte alphabet.

Token ids: the two control tokens, the 256 bytes, then one token per merge.
Text is first cut into words by GPT-2's rule, here for ASCII text only, which is
all the corpus has; merges never cross a word.
"""

import collections
import json
import re

BEGIN, END = 0, 1
CONTROL = ["<|begin|>", "<|end|>"]
_WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte: itself, or one from U+0100 up."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)]


def _join(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """`word` with every `pair` in it, from the left, made one symbol."""
    out: list[str] = []
    for symbol in word:
        if out and out[-1] == pair[0] and symbol == pair[1]:
            out[-1] += symbol
            # A symbol just made by joining cannot be the left half of the same pair again.
            continue
        out.append(symbol)
    return tuple(out)


class Tokenizer:
    """A vocabulary: its merges in order of rank, and the tokens they give."""

    def __init__(self, merges: list[tuple[str, str]]):
        self.alphabet = byte_alphabet()
        self.merges = merges
        self.tokens = CONTROL + self.alphabet + [a + b for a, b in merges]
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        self._ranks = {pair: i for i, pair in enumerate(merges)}
        self._bytes = {c: i for i, c in enumerate(self.alphabet)}
        self._known: dict[str, list[int]] = {}

    @classmethod
    def train(cls, texts: list[str], size: int) -> "Tokenizer":
        """Merges the most frequent pair, the smaller one on a tie, until there are `size` tokens."""
        alphabet = byte_alphabet()
        counts = collections.Counter(w for text in texts for w in _WORDS.findall(text))
        words = {tuple(alphabet[b] for b in w.encode()): n for w, n in counts.items()}
        merges: list[tuple[str, str]] = []
        while len(CONTROL) + 256 + len(merges) < size:
            pairs: collections.Counter = collections.Counter()
            for word, n in words.items():
                for pair in zip(word, word[1:]):
                    pairs[pair] += n
            best = min(pairs, key=lambda pair: (-pairs[pair], pair))
            merges.append(best)
            words = {_join(word, best): n for word, n in words.items()}
        return cls(merges)

    def encode(self, text: str) -> list[int]:
        """Token ids of ASCII `text`, without control tokens."""
        if not text.isascii():
            raise ValueError("only ASCII text can be cut into words here")
        return [i for word in _WORDS.findall(text) for i in self._word(word)]

    def _word(self, text: str) -> list[int]:
        if text not in self._known:
            word = tuple(self.alphabet[b] for b in text.encode())
            while len(word) > 1:
                best = min(zip(word, word[1:]), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
                if best not in self._ranks:
                    break
                word = _join(word, best)
            self._known[text] = [self._ids[symbol] for symbol in word]
        return self._known[text]

    def decode(self, ids) -> str:
        """Text of `ids`; control tokens are shown by name, broken UTF-8 by U+FFFD."""
        out = b""
        for i in ids:
            token = self.tokens[i]
            out += token.encode() if i < len(CONTROL) else bytes(self._bytes[c] for c in token)
        return out.decode(errors="replace")

    def save(self, path) -> None:
        """Writes the merges as JSON."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.merges, file, ensure_ascii=True)

    @classmethod
    def load(cls, path) -> "Tokenizer":
        """Reads what `save` wrote."""
        with open(path, encoding="utf-8") as file:
            return cls([tuple(pair) for pair in json.load(file)])
