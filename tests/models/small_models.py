"""The language models that the tests of this folder share: small ones of every kind."""

from eco.models import decoder, gpt2, sigma, simone
from eco.models.contract import LanguageModelConfig

VOCABULARY, CONTEXT = 61, 24
SIZES = {"vocab_size": VOCABULARY, "context": CONTEXT, "width": 32, "layers": 2, "heads": 4}
SIGMA_SIZES = {
    **SIZES, "layers": 3, "mamba_ratio": 2, "head_size": 16, "state": 8, "mimo_rank": 2, "chunk": 8, "latent": 16,
    "rope_size": 4, "feed_forward": 48, "routed_experts": 4, "document_end": -1,
}  # fmt: skip

TRANSFORMERS: dict[str, LanguageModelConfig] = {
    "gpt2": gpt2.Config(**SIZES),
    "gpt2-bare": gpt2.Config(**SIZES, attention_bias=False, activation="gelu", tied=False, feed_forward=48),
    "decoder": decoder.Config(**SIZES, kv_heads=2),
    "decoder-bias": decoder.Config(**SIZES, attention_bias=True, mlp_bias=True, tied=False, rope_base=500.0),
    "decoder-qk-norm": decoder.Config(**SIZES, kv_heads=1, qk_norm=True, attention_bias=True),
}

SIGMAS: dict[str, LanguageModelConfig] = {
    "sigma": sigma.Config(**SIGMA_SIZES),
    "sigma-plain": sigma.Config(
        **{**SIGMA_SIZES, "routed_experts": 0}, quant_mode="none", differential=False, rotate_state=False, tied=True
    ),
}

SIMONES: dict[str, LanguageModelConfig] = {
    "simone": simone.Config(**SIZES, policy_rank=3, forgetting=True),
}

CONFIGS = {**TRANSFORMERS, **SIGMAS, **SIMONES}
