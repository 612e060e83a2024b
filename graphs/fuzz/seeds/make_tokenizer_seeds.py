"""Writes the seeds of the tokenizer targets: a small vocabulary of each kind, as GGUF and as tokenizer.json."""

import json
import os
import struct


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def value(v):
    if isinstance(v, bool):
        return struct.pack("<IB", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + string(v)
    if isinstance(v, bytes):
        return struct.pack("<IIQ", 9, 0, len(v)) + v
    if isinstance(v[0], str):
        return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(string, v))
    code, form = (6, "f") if isinstance(v[0], float) else (5, "i")
    return struct.pack("<IIQ", 9, code, len(v)) + struct.pack(f"<{len(v)}{form}", *v)


def gguf(path, **keys):
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys))
    for key, v in keys.items():
        data += string("tokenizer." + ("" if key == "chat_template" else "ggml.") + key) + value(v)
    with open(path, "wb") as out:
        out.write(data)


def charsmap():
    units = [1 << 31] * 512
    units[0] = 256 << 10
    units[256 ^ ord("A")] = ord("A") | 1 << 8 | 1 << 10
    units[256 ^ ord("A") ^ 1] = 1 << 31
    return struct.pack("<I", 2048) + struct.pack("<512I", *units) + b"a\0"


def gguf_seeds(folder):
    text = ["<unk>", "<s>", "</s>", "<0x0A>", "\u2581", "a", "b", "ab", "\u2581a", "\u2581ab"]
    types = [2, 3, 3, 6, 1, 1, 1, 1, 1, 4]
    scores = [0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0]
    special = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    gguf(f"{folder}/spm", model="llama", tokens=text, scores=scores, token_type=types, chat_template="{{ bos_token }}", **special)
    gguf(
        f"{folder}/unigram", model="t5", tokens=text, scores=scores, token_type=types, remove_extra_whitespaces=True,
        add_space_prefix=True, precompiled_charsmap=charsmap(), **special,
    )
    gguf(f"{folder}/characters", model="gemma4", tokens=text, token_type=types, merges=["a b", "\u2581 a", "\u2581a b"], **special)
    words = ["[UNK]", "[CLS]", "[SEP]", "\u2581a", "b", "\u2581."]
    gguf(f"{folder}/word_piece", model="bert", tokens=words, cls_token_id=1, seperator_token_id=2, unknown_token_id=0)
    level = ["a", "b", "\u0120", "\u010a", "ab", "\u0120a", "<|im_end|>", "\u00c3", "\u00a9"]
    for pre in ["default", "llama-bpe", "qwen2", "gpt-4o", "tekken", "deepseek-v3", "deepseek-llm", "falcon"]:
        gguf(f"{folder}/bpe-{pre}", model="gpt2", pre=pre, tokens=level, token_type=[1] * 6 + [3, 1, 1], merges=["a b", "\u0120 a"])


def json_seeds(folder):
    added = [{"id": 0, "content": "<s>", "single_word": False, "lstrip": True, "rstrip": False, "normalized": False, "special": True}]
    template = {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    vocab = {"<s>": 0, "<unk>": 1, "a": 2, "b": 3, "ab": 4, "\u0120": 5, "\u2581": 6, "##b": 7, "<0x0A>": 8}
    bpe = {"type": "BPE", "vocab": vocab, "merges": [["a", "b"]], "unk_token": "<unk>", "byte_fallback": True, "ignore_merges": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": "\\s+(?!\\S)|\\w+|'(?i:s)"}, "behavior": "Isolated", "invert": False}
    meta = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    back = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    documents = {
        "byte_level": dict(pre_tokenizer={"type": "Sequence", "pretokenizers": [split, level]}, decoder=level, model=bpe),
        "byte_fallback": dict(
            normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace]}, model=bpe,
            decoder={"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        ),
        "unigram": dict(
            normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}, pre_tokenizer=meta, decoder=meta,
            model={"type": "Unigram", "unk_id": 1, "vocab": [["<s>", 0.0], ["<unk>", 0.0], ["a", -1.0], ["\u2581a", -2.0]]},
        ),
        "word_piece": dict(
            normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
            pre_tokenizer={"type": "BertPreTokenizer"}, decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
            model={"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab},
            truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        ),
        "precompiled": dict(
            normalizer={"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAIBhAGIA"}, decoder=None,
            model={"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        ),
    }
    for name, document in documents.items():
        document = {"version": "1.0", "added_tokens": added, "post_processor": template, **document}
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        config = "" if name != "byte_fallback" else '\0{"tokenizer_class":"LlamaTokenizer","add_bos_token":true,"bos_token":"<s>","chat_template":"x"}'
        with open(f"{folder}/{name}", "w", encoding="utf-8") as out:
            out.write(text + config)


for kind, make in [("tokenizer", gguf_seeds), ("tokenizer_json", json_seeds)]:
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), kind)
    os.makedirs(here, exist_ok=True)
    make(here)
