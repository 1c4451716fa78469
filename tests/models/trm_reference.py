"""A training step of TRM and HRM written out from the papers: slow, in fp64, one sample and one head at a time."""

import math

import torch
from torch import Tensor

from eco.models.contract import IGNORE
from eco.models.trm import Config

Weights = dict[str, Tensor]


def unit(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def swiglu(weights: Weights, name: str, x: Tensor) -> Tensor:
    gate, up = (x @ weights[f"{name}.gate_up.weight"].T).chunk(2, dim=-1)
    return (gate / (1 + (-gate).exp()) * up) @ weights[f"{name}.down.weight"].T


def turned(x: Tensor) -> Tensor:
    """(S, size), each pair (x[i], x[i + size/2]) as a complex number turned by its angle; tables in fp32."""
    half = x.shape[1] // 2
    angles = torch.outer(torch.arange(len(x)).double(), 10_000.0 ** (-torch.arange(half).double() / half))
    turn = torch.complex(angles.cos().float().double(), angles.sin().float().double())
    z = torch.complex(x[:, :half], x[:, half:]) * turn
    return torch.cat((z.real, z.imag), dim=1)


def attention(weights: Weights, name: str, x: Tensor, config: Config) -> Tensor:
    q, k, v = (x @ weights[f"{name}.qkv.weight"].T).chunk(3, dim=-1)
    size = config.width // config.heads
    heads = []
    for h in range(config.heads):
        own = slice(h * size, (h + 1) * size)
        query, key = q[:, own], k[:, own]
        if config.position == "rope":
            query, key = turned(query), turned(key)
        heads.append((query @ key.T / math.sqrt(size)).softmax(-1) @ v[:, own])
    return torch.cat(heads, dim=1) @ weights[f"{name}.output.weight"].T


def stack(weights: Weights, name: str, x: Tensor, config: Config) -> Tensor:
    for i in range(config.layers):
        block = f"{name}.blocks.{i}"
        if config.mixer == "mlp":
            x = unit(x.T + swiglu(weights, f"{block}.mixing.mlp", x.T)).T
        else:
            x = unit(x + attention(weights, f"{block}.mixing", x, config))
        x = unit(x + swiglu(weights, f"{block}.mlp", x))
    return x


def question(weights: Weights, tokens: Tensor, puzzle: Tensor, config: Config) -> Tensor:
    """(S, D) of one sample."""
    flat = torch.zeros(config.prefix * config.width, dtype=torch.float64)
    if "puzzle_table.weight" in weights:
        vector = weights["puzzle_table.weight"][puzzle]
        flat = torch.cat((vector, flat[len(vector) :]))
    x = torch.cat((flat.view(config.prefix, config.width), weights["embedding.weight"][tokens]))
    if config.position == "learned":
        x = (x + weights["position_embedding.weight"]) / math.sqrt(2)
    return math.sqrt(config.width) * x


def step(weights: Weights, x: Tensor, y: Tensor, z: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Answer and scratch (S, D) of one sample after all cycles, those of HRM's one-step gradient included."""
    answer_stack = "answer_stack" if config.stacks == "separate" else "stack"
    y, z = y.detach(), z.detach()
    for cycle in range(config.cycles):
        last_cycle = cycle == config.cycles - 1
        for update in range(config.inner_cycles):
            z = stack(weights, "stack", z + x if config.latents == 1 else z + y + x, config)
            if not last_cycle or (config.gradient == "last" and update < config.inner_cycles - 1):
                z = z.detach()
        y = stack(weights, answer_stack, z if config.latents == 1 else y + z, config)
        if config.latents == 1:
            z = y
        if not last_cycle:
            y, z = y.detach(), z.detach()
    return y, z


def halting(weights: Weights, y: Tensor) -> Tensor:
    return weights["halt_head.weight"] @ y[0] + weights["halt_head.bias"]


def answer_loss(weights: Weights, y: Tensor, targets: Tensor, config: Config) -> tuple[Tensor, bool]:
    """The mean of -log stablemax over the cells asked for, and whether all of them are right."""
    logits = y[config.prefix :] @ weights["head.weight"].T
    score = torch.where(logits >= 0, logits + 1, 1 / (1 - logits.clamp(max=0)))
    log_share = (score / score.sum(-1, keepdim=True)).log()
    asked = [t for t in range(config.length) if targets[t] != IGNORE]
    loss = -torch.stack([log_share[t, targets[t]] for t in asked]).mean()
    return loss, all(int(logits[t].argmax()) == int(targets[t]) for t in asked)


def cross_entropy(logit: Tensor, probability: Tensor | float) -> Tensor:
    p = 1 / (1 + (-logit).exp())
    return -(probability * p.log() + (1 - probability) * (1 - p).log())


def training_step(
    weights: Weights, batch: dict[str, Tensor], answers: Tensor, scratches: Tensor, made: Tensor, config: Config
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Losses, answers and scratches (B, S, D) of one more step of every row, `made` (B,) steps after its start."""
    rows = len(batch["tokens"])
    totals: dict[str, Tensor] = {}
    latents = []
    for row in range(rows):
        x = question(weights, batch["tokens"][row], batch["puzzle"][row], config)
        y, z = step(weights, x, answers[row], scratches[row], config)
        latents.append((y.detach(), z.detach()))
        if (batch["targets"][row] == IGNORE).all():
            continue
        halt = halting(weights, y)
        losses = {}
        losses["answer"], right = answer_loss(weights, y, batch["targets"][row], config)
        losses["halt"] = cross_entropy(halt[0], float(right))
        if config.halt == "continue":
            with torch.no_grad():
                ahead = halting(weights, step(weights, x, y, z, config)[0])
                last = made[row] + 1 >= config.max_steps
                worth = (ahead[0] if last else ahead.max()).sigmoid()
            losses["continue"] = cross_entropy(halt[1], worth)
        for name, loss in losses.items():
            totals[name] = totals.get(name, torch.zeros((), dtype=torch.float64)) + loss / rows
    return totals, torch.stack([y for y, _ in latents]), torch.stack([z for _, z in latents])
