"""Trains four small tokenizers on the stories in ../story/held_out.txt and writes, for each, its
tokenizer.json and what the Python package `tokenizers` (0.23.3) makes of the texts.

    python make_hugging_face.py
"""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from texts import texts

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = [
    "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n", "<s>a</s> <unk>", "a [MASK] b", "x <mask> y",
    "the tool_call here", "[CLS] a [SEP]",
]


def byte_level():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA_3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    train(tokenizer, trainer)
    tokenizer.add_tokens([AddedToken("tool_call", normalized=False)])
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template("<|begin_of_text|> $A", tokenizer, ["<|begin_of_text|>"])]
    )
    return tokenizer


def byte_fallback():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    marked = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    tokenizer.normalizer = normalizers.Sequence(marked)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False, max_token_length=12)
    # Words are cut while training only, so that merges stay within them.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    train(tokenizer, trainer)
    document = json.loads(tokenizer.to_str())
    document["pre_tokenizer"] = None
    document["added_tokens"] = [token for token in document["added_tokens"] if token["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.post_processor = template("<s> $A", tokenizer, ["<s>"])
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    train(tokenizer, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    tokenizer.post_processor = template("<s> $A </s>", tokenizer, ["<s>", "</s>"])
    return tokenizer


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    train(tokenizer, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    tokenizer.post_processor = template("[CLS] $A [SEP]", tokenizer, ["[CLS]", "[SEP]"])
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    return tokenizer


def train(tokenizer, trainer):
    with open("../story/held_out.txt", encoding="utf-8") as stories:
        tokenizer.train_from_iterator(stories.read().split("\n"), trainer)


def template(single, tokenizer, special):
    pairs = [(token, tokenizer.token_to_id(token)) for token in special]
    return processors.TemplateProcessing(single=single, special_tokens=pairs)


def main():
    lines = []
    for make in [byte_level, byte_fallback, unigram, word_piece]:
        name = make.__name__
        tokenizer = make()
        tokenizer.save(f"{name}.json", pretty=False)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        cases = []
        for text in texts() + CHAT:
            tokenizer.encode_special_tokens = True
            plain = tokenizer.encode(text, add_special_tokens=False).ids
            tokenizer.encode_special_tokens = False
            special = tokenizer.encode(text, add_special_tokens=True).ids
            decoded = tokenizer.decode(special, skip_special_tokens=True)
            cases.append({"text": text, "plain": plain, "special": special, "decoded": decoded})
        lines.append(json.dumps({"tokenizer": name, "cases": cases}, separators=(",", ":")))
    with open("hugging_face.json", "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(lines) + "\n]\n")


main()
