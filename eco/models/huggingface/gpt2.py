"""GPT2LMHeadModel <-> `eco.models.gpt2`."""

import re
from typing import Any

import torch
from torch import Tensor

from eco.models.gpt2 import Config
from eco.models.huggingface.links import Link, in_block, refuse_unless, required, to_ours, to_theirs

PREFIX = "transformer."
MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
"""Old files hold the causal mask beside the weights."""


def config_from(theirs: dict[str, Any]) -> Config:
    """Our config for their config.json. Raises ValueError for what ours cannot express."""
    refuse_unless(theirs, "activation_function", ("gelu_new", "gelu_pytorch_tanh", "gelu"))
    refuse_unless(theirs, "scale_attn_weights", (True,))
    refuse_unless(theirs, "scale_attn_by_inverse_layer_idx", (False,))
    refuse_unless(theirs, "add_cross_attention", (False,))
    return Config(
        vocab_size=required(theirs, "vocab_size"),
        context=required(theirs, "n_positions"),
        width=required(theirs, "n_embd"),
        layers=required(theirs, "n_layer"),
        heads=required(theirs, "n_head"),
        feed_forward=theirs.get("n_inner") or 0,
        activation="gelu" if theirs.get("activation_function") == "gelu" else "gelu_new",
        norm_eps=theirs.get("layer_norm_epsilon", 1e-5),
        dropout=theirs.get("resid_pdrop", 0.1),
        attention_dropout=theirs.get("attn_pdrop", 0.1),
        tied=theirs.get("tie_word_embeddings", True),
    )


def config_to(config: Config) -> dict[str, Any]:
    """Their config.json for our config."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.feed_forward or None,
        "activation_function": config.activation,
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
        "tie_word_embeddings": config.tied,
    }


def weights_from(config: Config, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names; the file may carry the prefix or, as the published ones, not."""
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in bare.items() if not MASK.fullmatch(name)}
    if config.tied:
        kept.pop("lm_head.weight", None)
    return to_ours(_links(config), kept)


def weights_to(config: Config, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names. Theirs always has attention biases: where ours has none, they are zero."""
    theirs = to_theirs(_links(config), state)
    if not config.attention_bias:
        for number in range(config.layers):
            theirs[f"h.{number}.attn.c_attn.bias"] = torch.zeros(3 * config.width)
            theirs[f"h.{number}.attn.c_proj.bias"] = torch.zeros(config.width)
    return {name if name == "lm_head.weight" else PREFIX + name: tensor for name, tensor in theirs.items()}


def _links(config: Config) -> list[Link]:
    block = [*_norm("attention_norm", "ln_1"), *_norm("mlp_norm", "ln_2")]
    block += _linear("attention.qkv", "attn.c_attn", config.attention_bias)
    block += _linear("attention.output", "attn.c_proj", config.attention_bias)
    block += [*_linear("mlp.up", "mlp.c_fc", True), *_linear("mlp.down", "mlp.c_proj", True)]
    links = [Link("embedding.weight", ("wte.weight",)), Link("position.weight", ("wpe.weight",))]
    for number in range(config.layers):
        links += in_block(number, "h", block)
    links += _norm("norm", "ln_f")
    return links if config.tied else [*links, Link("head.weight", ("lm_head.weight",))]


def _norm(ours: str, theirs: str) -> list[Link]:
    return [Link(f"{ours}.{part}", (f"{theirs}.{part}",)) for part in ("weight", "bias")]


def _linear(ours: str, theirs: str, bias: bool) -> list[Link]:
    weight = Link(f"{ours}.weight", (f"{theirs}.weight",), transposed=True)
    return [weight, Link(f"{ours}.bias", (f"{theirs}.bias",))] if bias else [weight]
