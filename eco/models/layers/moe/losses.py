"""The router's auxiliary losses, unweighted."""

from torch import Tensor

from eco.models.layers.moe.router import Choice, expert_load


def sequence_balance(choice: Choice) -> Tensor:
    """Sum over the experts of share of the load x mean p, times E, mean over the sequences: scalar, 1 where even.

    Of a choice (B, T, ...). Evens the load out within each sequence (DeepSeek-V3, arXiv 2412.19437, 2.1.2).
    """
    experts = choice.log_p.shape[-1]
    load = expert_load(choice.experts.flatten(1), experts)
    share = load / load.sum(-1, keepdim=True)
    return experts * (share * choice.log_p.exp().mean(1)).sum(-1).mean()


def router_z(choice: Choice) -> Tensor:
    """Mean of logsumexp(logits)^2: scalar. Keeps the logits small (ST-MoE, arXiv 2202.08906)."""
    return choice.logits.logsumexp(-1).square().mean()
