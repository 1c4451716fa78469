"""Small models with INSTANT, and one step of them."""

import torch
from small_models import CONTEXT, SIGMA_SIZES, SIZES, VOCABULARY
from torch import Tensor

from eco.models import decoder, sigma
from eco.models.contract import LanguageModel, LanguageModelConfig, build_model
from eco.models.instant import apply_instant
from eco.plugins import find

DECODER = {**SIZES, "layers": 3, "kv_heads": 2}
SIGMA = {**SIGMA_SIZES, "layers": 6, "document_end": 3}
SMALL: dict[str, LanguageModelConfig] = {
    "sigma": sigma.Config(**SIGMA),
    "sigma-dropout": sigma.Config(**SIGMA, dropout=0.1, jitter=0.1),
    "sigma-plain": sigma.Config(**{**SIGMA, "routed_experts": 0}, quant_mode="none", differential=False),
    "decoder": decoder.Config(**DECODER),
    "decoder-dropout": decoder.Config(**DECODER, dropout=0.1, attention_dropout=0.1),
}


def small(name: str, **changes: object) -> LanguageModel:
    """In training, INSTANT applied."""
    config = SMALL[name].model_copy(update=changes)
    model = build_model(find("models", config.family).build, config, 0, torch.device("cpu")).train()
    assert isinstance(model, LanguageModel)
    apply_instant(model)
    return model


def some_tokens(rows: int = 4, seed: int = 0) -> Tensor:
    """(rows, CONTEXT + 1), with ends of documents among them."""
    return torch.randint(VOCABULARY, (rows, CONTEXT + 1), generator=torch.Generator().manual_seed(seed))


def total_loss(model: LanguageModel, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """All losses, all of weight 1: those of the routing too."""
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        losses = model.training_step({"tokens": tokens[:, :-1], "targets": tokens[:, 1:].contiguous()}).losses
    return torch.stack([*losses.values()]).sum()


def gradients(model: LanguageModel, *batches: Tensor, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Of one step whose micro-batches are `batches`."""
    model.zero_grad()
    for tokens in batches:
        total_loss(model, tokens, dtype).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def without_inversion(model: LanguageModel, monkeypatch: object) -> None:
    """The same function, by autograd alone."""
    from eco.models.instant import instant

    def plain(sublayers, x1, x2, tally):
        return instant.coupled(sublayers, x1, x2)

    monkeypatch.setattr(instant, "coupling_segment", plain)
