# SPDX-License-Identifier: MIT OR Apache-2.0
"""Small Hugging Face folders with random weights, and what transformers computes with them.

    pip install torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
    python make.py

Writes NAME/config.json and NAME/model.safetensors (or shards and their index), and NAME.bin: f32
little endian, for the tokens 1, 4, 7, … (3·i + 1 modulo the vocabulary) of one sequence without
padding, all of token type 0.

- decoders: the logits, [tokens][vocabulary];
- encoders: the last hidden state, [tokens][hidden];
- NAME-classifier: the logits of the sequence's classification, [labels].

All is computed in float64 from the folder as written, with eager attention; transformers itself keeps
norms and rotary tables in float32. Everything follows from the seed.
"""

import json
import pathlib

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent
VOCABULARY, HIDDEN, FFN, LAYERS, HEADS, KV_HEADS = 64, 32, 48, 2, 4, 2
TOKENS = 24
CONTEXT = 64

DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
    "hidden_act": "gelu",
    "num_labels": 3,
}
DISTILBERT = {
    "vocab_size": VOCABULARY,
    "dim": HIDDEN,
    "hidden_dim": FFN,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "max_position_embeddings": CONTEXT,
    "num_labels": 3,
}
MOBILEBERT = BERT | {
    "hidden_act": "relu",
    "embedding_size": 16,
    "intra_bottleneck_size": 16,
    "num_feedforward_networks": 3,
}


def rope(kind: str, **figures):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0} | figures}


def fill(model: torch.nn.Module, name: str):
    """Noise of a size that keeps activations near one; norms around one."""
    rng = np.random.default_rng(sum(name.encode()))
    tied = set()
    for key, tensor in model.named_parameters():
        if tensor.data_ptr() in tied:
            continue
        tied.add(tensor.data_ptr())
        shape = tuple(tensor.shape)
        scale, around = (shape[-1] ** -0.5, 0.0) if len(shape) > 1 else (0.3, 0.0)
        if "embed" in key and len(shape) > 1 and "transformation" not in key:
            # as an output matrix it makes logits of a usual size
            scale = 0.2 if model.config.tie_word_embeddings and hasattr(model, "lm_head") else 1.0
        if "norm" in key.lower() and key.endswith("weight"):
            # without normalisation the residual stream must be kept small
            free = getattr(model.config, "normalization_type", None) == "no_norm"
            scale, around = 0.1, 0.6 if free else 1.0
            if model.config.model_type.startswith("gemma"):
                # stored less 1
                around = 0.0
        noise = rng.standard_normal(shape) * scale + around
        tensor.data.copy_(torch.from_numpy(noise.astype(np.float32)))


def write(name: str, model, dtype=torch.float32, shard: str = "1GB", edit=None):
    fill(model, name)
    folder = HERE / name
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if edit:
        edit(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    model, told = type(model).from_pretrained(
        folder,
        dtype=torch.float64,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    assert not told["missing_keys"], told
    ids = torch.tensor([[(3 * i + 1) % VOCABULARY for i in range(TOKENS)]])
    with torch.no_grad():
        result = model.eval()(ids)
    result = result.logits if hasattr(result, "logits") else result.last_hidden_state
    assert result.dtype == torch.float64
    result[0].numpy().astype("<f4").tofile(HERE / f"{name}.bin")


def decoder(kind: str, name: str, shard: str = "1GB", dtype=torch.float32, edit=None, **keys):
    text = "Text" if kind == "Gemma3" else ""
    config = getattr(transformers, f"{kind}{text}Config")(**(DECODER | keys))
    write(name, getattr(transformers, f"{kind}ForCausalLM")(config), dtype, shard, edit)


def encoder(kind: str, name: str, base: dict, edit=None, **keys):
    for suffix, cls in [("", "Model"), ("-classifier", "ForSequenceClassification")]:
        config = getattr(transformers, f"{kind}Config")(**(base | keys))
        write(name + suffix, getattr(transformers, kind + cls)(config), edit=edit)


def old_config(*without, **keys):
    """Writes the configuration as older releases did: rotary figures at its top, scaling apart."""

    def edit(folder):
        file = folder / "config.json"
        config = json.loads(file.read_text())
        for member in ["rope_parameters", *without]:
            config.pop(member)
        config["torch_dtype"] = config.pop("dtype")
        file.write_text(json.dumps(config | keys, indent=2, sort_keys=True) + "\n")

    return edit


def old_names(folder):
    """Writes the tensors as the first releases named them, with the buffer they stored."""
    file = folder / "model.safetensors"
    tensors = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in load_file(file).items()
    }
    prefix = "bert." if any(k.startswith("bert.") for k in tensors) else ""
    tensors[prefix + "embeddings.position_ids"] = torch.arange(CONTEXT)[None]
    save_file(tensors, file, {"format": "pt"})


def main():
    decoder("Llama", "llama", attention_bias=True, head_dim=8)
    decoder("Llama", "llama-tied-bf16", dtype=torch.bfloat16, tie_word_embeddings=True)
    decoder("Llama", "llama-sharded-f16", dtype=torch.float16, shard="12KB")
    decoder("Llama", "llama-linear", **rope("linear", factor=4.0))
    llama3 = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    old = {"rope_theta": 100.0, "rope_scaling": llama3 | {"rope_type": "llama3"}}
    decoder("Llama", "llama-llama3", edit=old_config(**old), **rope("llama3", **(llama3 | {"rope_theta": 100.0})))
    yarn = {"factor": 4.0, "original_max_position_embeddings": 16}
    decoder("Llama", "llama-yarn", **rope("yarn", **yarn))
    own = yarn | {"attention_factor": 0.9, "beta_fast": 8.0, "beta_slow": 0.5, "rope_theta": 100.0}
    old = {"rope_theta": 100.0, "rope_scaling": {k: v for k, v in own.items() if k != "rope_theta"} | {"type": "yarn"}}
    decoder("Llama", "llama-yarn-factor", edit=old_config(**old), **rope("yarn", **own))
    decoder("Mistral", "mistral", sliding_window=None)
    decoder("Mistral", "mistral-window", sliding_window=5)
    decoder("Qwen2", "qwen2", tie_word_embeddings=True, **rope("default", rope_theta=1e6))
    decoder("Qwen2", "qwen2-window", use_sliding_window=True, sliding_window=5, max_window_layers=1)
    decoder("Qwen3", "qwen3", head_dim=16, **rope("default", rope_theta=1e6))
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    decoder("Mixtral", "mixtral", **experts)
    decoder("Mixtral", "mixtral-bf16", dtype=torch.bfloat16, **experts)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True}
    decoder("Qwen3Moe", "qwen3moe", head_dim=16, **experts)
    gemma = {"head_dim": 8, "tie_word_embeddings": True}
    decoder("Gemma", "gemma", **gemma)
    decoder("Gemma", "gemma-bf16", dtype=torch.bfloat16, **gemma)
    scores = {"query_pre_attn_scalar": 8, "sliding_window": 5}
    decoder("Gemma2", "gemma2", **(gemma | scores))
    decoder("Gemma2", "gemma2-scaled", **(gemma | scores | {"query_pre_attn_scalar": 20, "attn_logit_softcapping": None}))
    kinds = {"layer_types": ["sliding_attention", "full_attention"]}
    decoder("Gemma3", "gemma3", **(gemma | scores | kinds))
    linear = {"rope_type": "linear", "factor": 4.0}
    old = {"rope_theta": 1e5, "rope_local_base_freq": 100.0, "rope_scaling": linear, "sliding_window_pattern": 2}
    ropes = {
        "full_attention": linear | {"rope_theta": 1e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
    edit = old_config("layer_types", "_sliding_window_pattern", **old)
    decoder("Gemma3", "gemma3-old", edit=edit, rope_parameters=ropes, **(gemma | scores | kinds))
    decoder("Phi3", "phi3")
    decoder("Phi3", "phi3-window", sliding_window=5, **rope("default", partial_rotary_factor=0.75))
    long = {"short_factor": [1.0, 1.1, 1.3, 2.0], "long_factor": [1.0, 1.5, 3.0, 6.0]}
    decoder("Phi3", "phi3-long", original_max_position_embeddings=16, **rope("longrope", **long))
    decoder("Phi3", "phi3-short", original_max_position_embeddings=32, **rope("longrope", **long))
    encoder("Bert", "bert", BERT)
    encoder("Bert", "bert-old", BERT, edit=old_names, hidden_act="gelu_new")
    encoder("DistilBert", "distilbert", DISTILBERT)
    encoder("MobileBert", "mobilebert", MOBILEBERT)
    # every choice of the family the other way
    encoder(
        "MobileBert",
        "mobilebert-plain",
        MOBILEBERT,
        trigram_input=False,
        use_bottleneck_attention=True,
        normalization_type="layer_norm",
        num_feedforward_networks=1,
        classifier_activation=False,
        hidden_act="gelu",
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
