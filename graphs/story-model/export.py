# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes the trained weights as GGUF, in F32 and in Q8_0.

    python export.py --weights build --out .

`story-F32.gguf` goes beside the weights, `story-Q8_0.gguf` to `--out`. In the
Q8_0 file every matrix is Q8_0 and every norm stays F32.
"""

import argparse
import pathlib

import gguf
import numpy as np

from model import Config
from tokenizer import BEGIN, CONTROL, END, Tokenizer

DESCRIPTION = (
    "A small language model that tells short stories. Trained from scratch by the anynpu project "
    "on stories from its own grammar; no outside text was used."
)


def write(path: pathlib.Path, cfg: Config, weights, tokenizer: Tokenizer, kind: gguf.GGMLQuantizationType) -> None:
    """Writes one GGUF file with the matrices in `kind`, which is F32 or Q8_0."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("anynpu story model")
    writer.add_author("The anynpu authors")
    writer.add_license("MIT OR Apache-2.0")
    writer.add_description(DESCRIPTION)
    writer.add_languages(["en"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    quantised = kind == gguf.GGMLQuantizationType.Q8_0
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.ALL_F32)

    writer.add_context_length(cfg.context)
    writer.add_embedding_length(cfg.hidden)
    writer.add_block_count(cfg.layers)
    writer.add_feed_forward_length(cfg.ffn)
    writer.add_head_count(cfg.heads)
    writer.add_head_count_kv(cfg.kv_heads)
    writer.add_layer_norm_rms_eps(cfg.eps)
    writer.add_rope_dimension_count(cfg.head_dim)
    writer.add_rope_freq_base(cfg.rope_base)
    writer.add_vocab_size(cfg.vocab)

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokenizer.tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control] * len(CONTROL) + [normal] * (cfg.vocab - len(CONTROL)))
    writer.add_token_merges([f"{a} {b}" for a, b in tokenizer.merges])
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)

    for name in cfg.shapes():
        value = np.ascontiguousarray(weights[name], dtype=np.float32)
        if quantised and value.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Command line."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--weights", type=pathlib.Path, default=pathlib.Path("build"))
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."))
    given = arguments.parse_args()
    weights = dict(np.load(given.weights / "weights.npz"))
    tokenizer = Tokenizer.load(given.weights / "merges.json")
    kinds = gguf.GGMLQuantizationType
    for path, kind in ((given.weights / "story-F32.gguf", kinds.F32), (given.out / "story-Q8_0.gguf", kinds.Q8_0)):
        write(path, Config(), weights, tokenizer, kind)
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
