"""LlamaForCausalLM <-> `eco.models.decoder`, and Qwen3ForCausalLM, which is the same with QK-norm."""

from typing import Any

from torch import Tensor

from eco.models.decoder import Config
from eco.models.huggingface.links import Link, in_block, refuse_unless, required, to_ours, to_theirs


def config_from(theirs: dict[str, Any]) -> Config:
    """Our config for their config.json. Raises ValueError for what ours cannot express."""
    width, heads = required(theirs, "hidden_size"), required(theirs, "num_attention_heads")
    refuse_unless(theirs, "hidden_act", ("silu",))
    refuse_unless(theirs, "head_dim", (None, width // heads))
    refuse_unless(theirs, "use_sliding_window", (False,))
    return Config(
        vocab_size=required(theirs, "vocab_size"),
        context=required(theirs, "max_position_embeddings"),
        width=width,
        layers=required(theirs, "num_hidden_layers"),
        heads=heads,
        kv_heads=theirs.get("num_key_value_heads") or 0,
        feed_forward=required(theirs, "intermediate_size"),
        rope_base=_rope_base(theirs),
        norm_eps=theirs.get("rms_norm_eps", 1e-6),
        attention_bias=theirs.get("attention_bias", False),
        mlp_bias=theirs.get("mlp_bias", False),
        qk_norm=theirs["model_type"] == "qwen3",
        attention_dropout=theirs.get("attention_dropout", 0.0),
        tied=theirs.get("tie_word_embeddings", False),
    )


def config_to(config: Config) -> dict[str, Any]:
    """Their config.json for our config. Raises ValueError for QK-norm with MLP biases, which neither of theirs has."""
    if config.qk_norm and config.mlp_bias:
        raise ValueError("transformers has no model with both qk_norm and mlp_bias; train without one of them")
    return {
        "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"],
        "model_type": "qwen3" if config.qk_norm else "llama",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.resolved_kv_heads,
        "head_dim": config.width // config.heads,
        "intermediate_size": config.resolved_feed_forward,
        "hidden_act": "silu",
        "rope_theta": config.rope_base,  # read by transformers 4
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},  # read by transformers 5
        "rms_norm_eps": config.norm_eps,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "attention_dropout": config.attention_dropout,
        "tie_word_embeddings": config.tied,
    }


def weights_from(config: Config, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names."""
    unused = ("lm_head.weight",) if config.tied else ()
    kept = {name: t for name, t in tensors.items() if name not in unused and not name.endswith("rotary_emb.inv_freq")}
    return to_ours(_links(config), kept)


def weights_to(config: Config, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    return to_theirs(_links(config), state)


def _rope_base(theirs: dict[str, Any]) -> float:
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"config.json scales the rotary positions ({kind!r}); only plain ones are supported")
    return float(rope.get("rope_theta", theirs.get("rope_theta", 10_000.0)))


def _links(config: Config) -> list[Link]:
    head_size = config.width // config.heads
    query, key = config.width, config.resolved_kv_heads * head_size
    feed_forward = config.resolved_feed_forward
    block = [_weight("attention_norm", "input_layernorm"), _weight("mlp_norm", "post_attention_layernorm")]
    for part in ("weight", "bias") if config.attention_bias else ("weight",):
        names = tuple(f"self_attn.{name}_proj.{part}" for name in "qkv")
        block.append(Link(f"attention.qkv.{part}", names, rows=(query, key, key)))
        block.append(Link(f"attention.output.{part}", (f"self_attn.o_proj.{part}",)))
    for part in ("weight", "bias") if config.mlp_bias else ("weight",):
        names = (f"mlp.gate_proj.{part}", f"mlp.up_proj.{part}")
        block.append(Link(f"mlp.gate_up.{part}", names, rows=(feed_forward, feed_forward)))
        block.append(Link(f"mlp.down.{part}", (f"mlp.down_proj.{part}",)))
    if config.qk_norm:
        block.append(_weight("attention.query_norm", "self_attn.q_norm"))
        block.append(_weight("attention.key_norm", "self_attn.k_norm"))
    links = [_weight("embedding", "model.embed_tokens"), _weight("norm", "model.norm")]
    for number in range(config.layers):
        links += in_block(number, "model.layers", block)
    return links if config.tied else [*links, _weight("head", "lm_head")]


def _weight(ours: str, theirs: str) -> Link:
    return Link(f"{ours}.weight", (f"{theirs}.weight",))
