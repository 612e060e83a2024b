"""Writes llama_cpp.json: the ids that llama.cpp (Python package llama-cpp-python 0.3.36) gives the
texts with its own vocabularies for which its source has no case files, and of phi-3 with special
tokens read.

    python make_llama_cpp.py FOLDER_WITH_ITS_MODELS
"""

import json
import sys

from llama_cpp import Llama

from texts import texts

VOCABULARIES = [("gpt-neox", False), ("aquila", False), ("baichuan", False), ("nomic-bert-moe", False), ("phi-3", True)]
CHAT = [
    "<|user|>\nHello there<|end|>\n<|assistant|>\n", "<|system|> \n a <|end|>\n<|user|>\n\n b", "<s>a</s> \n b <unk> c",
    "<|endoftext|>  x<|end|>", "a <|user|> b",
]


def main():
    lines = []
    for name, special in VOCABULARIES:
        model = Llama(f"{sys.argv[1]}/ggml-vocab-{name}.gguf", vocab_only=True, verbose=False)
        # The binding ends a text at its first zero character.
        chosen = CHAT if special else [text for text in texts() if "\0" not in text]
        cases = []
        for text in chosen:
            ids = model.tokenize(text.encode(), add_bos=False, special=special)
            cases.append({"text": text, "ids": ids})
        lines.append(json.dumps({"vocabulary": name, "parse_special": special, "cases": cases}, separators=(",", ":")))
    with open("llama_cpp.json", "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(lines) + "\n]\n")


main()
