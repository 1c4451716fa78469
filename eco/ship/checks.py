"""What is checked of a packed model, once it is loaded: each check compares, and says what it found."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from eco.data.tokenizer import Tokenizer
from eco.inference.engine import Engine
from eco.inference.sampling import Sampling
from eco.models.contract import IGNORE, LanguageModel
from eco.ship.bundle import Facts
from eco.ship.probe import Probe, answer, machine_kind, one_thread

SAME_KIND = 1e-5
"""Most that a logit may differ from the probe's where processor, torch and kernels are the same, as a share of the
largest logit. There the bits come out equal; this leaves room for memory that is aligned differently (fp32: 6e-8)."""

OTHER_KIND = 1e-2
"""The same on another kind of machine. Sums in another order differ by 1e-6, but where a model rounds (ternary weights,
int8 activations) or chooses experts, one that lay on the edge falls to the other side."""

CACHED = 1e-4
"""Most that a logit with the cache may differ from that of the whole window, in fp32; logits are of the size of 10."""

LOSS = 0.01
"""Most that the held-out loss may differ from the recorded one, as a share of it. Training may compute in bf16."""

REPEATED = 0.5
"""Largest share of the 4-grams of a continuation that were there before, as a mean over the prompts (seq-rep-4, Welleck
et al., arXiv 1908.04319). Prose repeats a few in a hundred, source code up to a third; a model that goes round in
circles repeats nearly all."""

SAMPLING = Sampling(max_new_tokens=64, temperature=0.8, seed=0)

TEXTS = (
    "In the beginning God created the heaven and the earth.",
    "def f(x):\n\treturn x ** 2  # squared\n",
    "two lines\r\nas Windows ends them\r\n\r\n",
    "  blanks before, between   and behind   ",
    "\U0001f600 \U0001f469‍\U0001f469‍\U0001f467 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd",
    "e\u0301 \u00e9 \ufb01 \u2028 \u00a0 \ufeff",
    "\u05d1\u05b0\u05bc\u05e8\u05b5\u05d0\u05e9\u05b4\u05c1\u05d9\u05ea "  # Hebrew with its points
    "\u1f10\u03bd \u1f00\u03c1\u03c7\u1fc7 \u65e5\u672c\u8a9e \u0627\u0644\u0639\u0631\u0628",
    "<book>Genesis\n<chapter>Genesis 1\n<verse>Genesis 1:1 In the <psalm> <unknown> <verse",
    "<|endoftext|><|pad|><pad><bos></s>",
    "\x00\x01\x7f" + "a" * 300 + "1234567890" * 10,
    "",
)  # fmt: skip
"""Texts that come back as they were from a tokenizer that changes nothing; the last but two hold marks and names of
special tokens, which are plain text here."""


@dataclass(frozen=True)
class Packed:
    """What a bundle holds, loaded; the model in evaluation mode on the CPU. windows: tokens, targets (N, T) int64."""

    model: LanguageModel
    tokenizer: Tokenizer
    facts: Facts
    probe: Probe
    windows: dict[str, Tensor]


@dataclass(frozen=True)
class Check:
    """What one check found. detail: for people; figures: what was measured."""

    name: str
    passed: bool
    detail: str
    figures: dict[str, float | str] = field(default_factory=dict)


def parameters(packed: Packed) -> Check:
    """Parameters by component, as the facts name them."""
    found, expected = packed.model.parameter_table(), packed.facts.parameters
    names = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    differences = [f"{name} has {found.get(name, 0)} instead of {expected.get(name, 0)}" for name in names]
    total = sum(found.values())
    detail = "; ".join(differences) or f"{total:,} in {len(found)} components"
    return Check("parameters", not differences, detail, {"parameters": total, "components": len(found)})


def tokenizer(packed: Packed) -> Check:
    """Every probe text comes back from its ids, which are all of the vocabulary."""
    broken, largest = [], 0
    for text in TEXTS:
        ids = packed.tokenizer.encode(text)
        largest = max([largest, *ids])
        if packed.tokenizer.decode(ids) != text:
            broken.append(repr(text[:30]))
    sound = not broken and largest < packed.facts.vocabulary == packed.tokenizer.vocab_size
    detail = f"changes {', '.join(broken)}" if broken else f"{len(TEXTS)} texts, largest id {largest}"
    return Check("tokenizer", sound, detail, {"texts": len(TEXTS), "broken": len(broken), "largest_id": largest})


def logits(packed: Packed) -> Check:
    """Finite, the same bits twice, and those of the stored probe within the tolerance for this kind of machine."""
    first, again = (answer(packed.model, packed.probe.tokens) for _ in range(2))
    found, stored = first[0, packed.probe.positions], packed.probe.logits
    same_kind = machine_kind() == packed.facts.made_with["machine"]
    allowed = SAME_KIND if same_kind else OTHER_KIND
    finite, repeated = bool(first.isfinite().all()), torch.equal(first, again)
    difference = _largest(found - stored) / max(1.0, _largest(stored))
    problems = [] if finite else ["not finite"]
    problems += [] if repeated else ["not the same twice"]
    kind = "same kind of machine" if same_kind else "another kind of machine"
    compared = f"{difference:.1e} from the probe ({allowed:.0e} allowed, {kind})"
    sound = finite and repeated and difference <= allowed
    figures: dict[str, float | str] = {
        "difference": difference,
        "allowed": allowed,
        "bit_equal": torch.equal(found, stored),
    }
    return Check("logits", sound, ", ".join([*problems, compared]), figures)


def cache(packed: Packed) -> Check:
    """A window in pieces, the middle of it token by token, says what it says as a whole; so does the fused step."""
    tokens = packed.probe.tokens
    whole = answer(packed.model, tokens)
    length = tokens.shape[1]
    single = min(32, length // 2)
    first = (length - single) // 2
    pieces = [size for size in (first, *[1] * single, length - single - first) if size]
    with one_thread(), torch.no_grad():
        kept = packed.model.new_cache(1, length)
        cached = torch.cat([packed.model(piece, kept) for piece in torch.split(tokens, pieces, dim=1)], dim=1)
        fused = _fused(packed.model, tokens, first, single)
    differences = {"difference": _largest(cached - whole)}
    if fused is not None:
        differences["fused_difference"] = _largest(fused - whole[0, first : first + single])
    worst = max(differences.values())
    detail = f"{worst:.1e} from the whole window ({CACHED:.0e} allowed)"
    return Check("cache", worst <= CACHED, detail, {**differences, "allowed": CACHED})


def generation(packed: Packed) -> Check:
    """Most prompts are continued, with ids of the vocabulary, and not in circles.

    Not all: a prompt may end where its document did, and an end of text is a good answer then.
    """
    prompts = packed.facts.prompts
    engine = Engine(packed.model, packed.tokenizer)
    answers = [rows[0] for rows in engine.generate(prompts, SAMPLING)]
    done = [answer.tokens for answer in answers]
    empty = sum(not answer.text for answer in answers)
    largest = max((max(tokens) for tokens in done if tokens), default=0)
    repeated = sum(map(repeated_share, done)) / max(1, len(done))
    sound = bool(done) and empty <= len(done) // 2 and largest < packed.facts.vocabulary and repeated <= REPEATED
    detail = (
        f"{len(done)} prompts, {empty} without an answer, {repeated:.0%} of 4-grams repeated ({REPEATED:.0%} allowed)"
    )
    return Check(
        "generation", sound, detail, {"prompts": len(done), "empty": empty, "largest_id": largest, "repeated": repeated}
    )


def loss(packed: Packed) -> Check:
    """The mean cross-entropy of the packed windows, in fp32, against the recorded figure."""
    nats, count = 0.0, 0
    with torch.no_grad():
        for row, wanted in zip(packed.windows["tokens"], packed.windows["targets"], strict=True):
            said = packed.model(row[None])[0].float()
            nats += float(F.cross_entropy(said, wanted, ignore_index=IGNORE, reduction="sum"))
            count += int((wanted != IGNORE).sum())
    measured, recorded = nats / max(1, count), packed.facts.held_out["val_loss"]
    difference = abs(measured / recorded - 1)
    detail = f"{measured:.4f} nats a token, recorded {recorded:.4f}: {difference:.2%} apart ({LOSS:.0%} allowed)"
    figures: dict[str, float | str] = {
        "measured": measured, "recorded": recorded, "difference": difference, "allowed": LOSS, "tokens": count,
    }  # fmt: skip
    return Check("held_out_loss", difference <= LOSS, detail, figures)


CHECKS: dict[str, Callable[[Packed], Check]] = {
    "parameters": parameters,
    "tokenizer": tokenizer,
    "logits": logits,
    "cache": cache,
    "generation": generation,
    "held_out_loss": loss,
}


def repeated_share(tokens: Sequence[int], size: int = 4) -> float:
    """The share of the n-grams of `tokens` that occurred before; 0 where there is none."""
    grams = Counter(tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1))
    return 1 - len(grams) / grams.total() if grams else 0.0


def _fused(model: LanguageModel, tokens: Tensor, first: int, count: int) -> Tensor | None:
    """Logits (count, V) of `tokens[:, first : first + count]` by the fused step; None where the model has none."""
    step = model.fused_step()
    if step is None or not first:
        return None
    kept = model.new_cache(1, first)
    model(tokens[:, :first], kept)
    kept.branch(torch.zeros(1, dtype=torch.int64), count, True)
    return torch.cat([step(tokens[:, at], kept) for at in range(first, first + count)])


def _largest(difference: Tensor) -> float:
    """The largest magnitude; infinite where something is not finite."""
    return float(difference.abs().nan_to_num(float("inf")).max())
