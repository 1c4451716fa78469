"""Each auxiliary loss against its definition, written out in fp64; what it does without answers; that it is learnt
where there is something to learn, and not where there is nothing."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from eco import plugins
from eco.data.concepts import CONCEPTS, HORIZON, RATES, STRIDE
from eco.evaluation.auxiliary import auroc
from eco.models.contract import IGNORE, Batch, build_model
from eco.models.decoder import Config as Trunk
from eco.models.governance.objectives import AuxiliaryConfig, ComprehensiveTrainingLoss
from eco.models.governance.terms import View, nothing
from eco.models.layers.init import init_transformer
from eco.optim.parts.roles import Role, roles

WEIGHTS = {f"{name}_weight": 0.1 for name in ("concept", "continuation", "reference", "genre", "recall", "energy")}
ROWS, LENGTH, WIDTH, VOCABULARY = 3, 96, 16, 40


class Config(AuxiliaryConfig):
    family: str = "pupil"
    width: int = WIDTH


def objectives(**weights: float) -> ComprehensiveTrainingLoss:
    made = ComprehensiveTrainingLoss(Config(**weights, books=6, genres=3))
    init_transformer(made, 1, torch.Generator().manual_seed(0))
    return made


def drawn() -> tuple[Tensor, Tensor, Batch, Tensor]:
    """hidden, embedded, batch, head_weight; the last row is half padding, the second has no place before a mark."""
    g = torch.Generator().manual_seed(1)
    hidden, embedded = (torch.randn(ROWS, LENGTH, WIDTH, generator=g).requires_grad_() for _ in range(2))
    targets = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=g)
    targets[2, 50:] = IGNORE
    batch = {
        "tokens": torch.randint(VOCABULARY, (ROWS, LENGTH), generator=g),
        "targets": targets,
        "concepts": (torch.rand(ROWS, LENGTH // STRIDE, len(CONCEPTS), generator=g) < 0.2).float(),
        "prefix": torch.tensor([9, 0, 20]),
        "document": torch.tensor([4, IGNORE, 0]),
        "place": torch.tensor([3, IGNORE, 0]),
        "category": torch.tensor([2, IGNORE, 1]),
        "recall": torch.rand(ROWS, LENGTH, generator=g) < 0.3,
    }
    return hidden, embedded, batch, torch.randn(VOCABULARY, WIDTH, generator=g).requires_grad_()


def nll(logits: Tensor, target: int) -> float:
    return float((logits.logsumexp(0) - logits[target]).detach())


def linear(head: torch.nn.Linear, x: Tensor) -> Tensor:
    bias = head.bias.double() if head.bias is not None else 0.0
    return head.weight.double() @ x + bias


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def slow_concepts(terms, hidden, embedded, batch, head) -> float:
    losses = []
    for b in range(ROWS):
        for p in range(LENGTH // STRIDE):
            place = (p + 1) * STRIDE - 1
            if batch["targets"][b, place] == IGNORE:
                continue
            for c, logit in enumerate(linear(terms["concepts"].head, hidden[b, place]).tolist()):
                rate, answer = max(0.01, RATES[c]), 1 / (1 + math.exp(-logit))
                yes = batch["concepts"][b, p, c] == 1
                losses.append(-math.log(answer) / (2 * rate) if yes else -math.log(1 - answer) / (2 * (1 - rate)))
    return mean(losses)


def slow_continuation(terms, hidden, embedded, batch, head) -> float:
    def unit(layer, states, b, s):
        x = linear(layer, states[b, 32 * s : 32 * s + 32].mean(0))
        return x / x.norm()

    whole = [
        (b, s) for b in range(ROWS) for s in range(LENGTH // 32)
        if (batch["targets"][b, 32 * s : 32 * s + 32] != IGNORE).all()
    ]  # fmt: skip
    term, losses = terms["continuation"], []
    for b, s in whole:
        if (b, s + 1) in whole:
            query = unit(term.query, hidden, b, s)
            logits = torch.stack([query @ unit(term.key, embedded, *other) / 0.07 for other in whole])
            losses.append(nll(logits, whole.index((b, s + 1))))
    assert len(losses) == 4 and len(whole) == 7
    return mean(losses)


def slow_reference(terms, hidden, embedded, batch, head) -> float:
    logits = {b: linear(terms["reference"].head, hidden[b, : batch["prefix"][b]].mean(0)) for b in (0, 2)}
    books = [nll(logits[b][:6], batch["document"][b]) for b in logits]
    return mean(books) + mean([nll(logits[b][6:], batch["place"][b]) for b in logits])


def slow_genre(terms, hidden, embedded, batch, head) -> float:
    states = {b: hidden[b, : batch["prefix"][b]].mean(0) for b in (0, 2)}
    return mean([nll(linear(terms["genre"].head, x), batch["category"][b]) for b, x in states.items()])


def slow_recall(terms, hidden, embedded, batch, head) -> float:
    asked = (batch["recall"] & (batch["targets"] != IGNORE)).nonzero().tolist()
    return mean([nll(head @ hidden[b, t], batch["targets"][b, t]) for b, t in asked])


def slow_energy(terms, hidden, embedded, batch, head) -> float:
    places = [(b, t) for b in range(ROWS) for t in range(15, LENGTH, 16) if batch["targets"][b, t] != IGNORE]
    return mean([float((head @ hidden[b, t]).logsumexp(0)) ** 2 for b, t in places])


SLOW: dict[str, Callable[..., float]] = {
    "concepts": slow_concepts,
    "continuation": slow_continuation,
    "reference": slow_reference,
    "genre": slow_genre,
    "recall": slow_recall,
    "energy": slow_energy,
}


def test_every_loss_is_its_definition() -> None:
    made, (hidden, embedded, batch, head) = objectives(**WEIGHTS), drawn()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    losses, _ = made(hidden, embedded, batch, head)
    assert losses.keys() == SLOW.keys()
    for name, slow in SLOW.items():
        expected = slow(made.terms, *(x.detach().double() for x in (hidden, embedded)), batch, head.detach().double())
        assert losses[name].item() == pytest.approx(expected, rel=2e-5), name


def test_metrics_are_of_the_rows_that_have_an_answer() -> None:
    hidden, embedded, batch, head = drawn()
    made = objectives(**WEIGHTS)
    _, metrics = made(hidden, embedded, batch, head)
    answers = made.terms["genre"].head(torch.stack([hidden[0, :9].mean(0), hidden[2, :20].mean(0)])).argmax(1)
    right = [float(answers[0] == 2), math.nan, float(answers[1] == 1)]
    assert metrics["genre_accuracy"].tolist() == pytest.approx(right, nan_ok=True)
    assert metrics["book_accuracy"].isnan().tolist() == [False, True, False]
    assert metrics["continuation_accuracy"].isnan().tolist() == [False, False, True], "padding leaves one segment"
    logits = made.terms["concepts"].head(hidden[2, 15:50:16]) > 0
    truth = batch["concepts"][2, :3] > 0
    both, either = (logits & truth).sum(), logits.sum() + truth.sum()
    assert metrics["concepts_f1"][2].item() == pytest.approx(float(2 * both / either))
    assert not any(value.requires_grad for value in metrics.values())


def test_in_bf16_the_losses_are_about_the_same() -> None:
    made, arguments = objectives(**WEIGHTS), drawn()
    expected, _ = made(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = made(*arguments)
        assert made.terms["continuation"].scores(View(*arguments))[0].dtype == torch.float32
    for name, loss in expected.items():
        assert found[name].dtype == torch.float32
        assert found[name].item() == pytest.approx(loss.item(), rel=5e-3), name


def test_an_optimizer_knows_the_heads_as_heads() -> None:
    """Those are stepped element by element; what passages are compared by is a matrix between layers."""
    made = objectives(**WEIGHTS)
    found = {name: roles(made)[parameter] for name, parameter in made.named_parameters() if name.endswith("weight")}
    matrices = {"terms.continuation.query.weight", "terms.continuation.key.weight"}
    assert {name for name, role in found.items() if role is Role.MATRIX} == matrices
    assert {role for name, role in found.items() if name not in matrices} == {Role.HEAD}


@pytest.mark.parametrize("name", SLOW)
def test_the_gradient_reaches_the_states_and_the_head(name: str) -> None:
    weight = "concept_weight" if name == "concepts" else f"{name}_weight"
    made, (hidden, embedded, batch, head) = objectives(**{weight: 0.1}), drawn()
    losses, _ = made(hidden, embedded, batch, head)
    assert list(losses) == [name] and list(made.terms) == [name]
    losses[name].backward()
    assert hidden.grad is not None and hidden.grad.norm() > 1e-4
    for parameter in made.parameters():
        assert parameter.grad is not None and parameter.grad.norm() > 1e-4
    assert (head.grad is not None) == (name in ("recall", "energy"))
    assert (embedded.grad is not None) == (name == "continuation")


def test_nothing_leaks_from_the_next_segment_or_past_the_mark() -> None:
    """States that a question must not see have no gradient from it."""
    hidden, embedded, batch, head = drawn()
    objectives(reference_weight=1, genre_weight=1)(hidden, embedded, batch, head)[0]["reference"].backward()
    seen = hidden.grad.abs().sum(-1) > 0
    assert seen.sum(1).tolist() == [9, 0, 20] and seen[0, :9].all() and seen[2, :20].all()
    hidden, embedded, batch, head = drawn()
    objectives(continuation_weight=1)(hidden, embedded, batch, head)[0]["continuation"].backward()
    assert not hidden.grad[:, 64:].any(), "the last segment of a row asks nothing"


def test_a_batch_without_answers_costs_nothing_and_stays_finite() -> None:
    made, (hidden, embedded, batch, head) = objectives(**WEIGHTS), drawn()
    for name in ("targets", "document", "place", "category"):
        batch[name] = torch.full_like(batch[name], IGNORE)
    batch["prefix"] = torch.zeros_like(batch["prefix"])
    for length in (LENGTH, 20, 5):
        short = {n: x[:, :length] if x.ndim == 2 else x for n, x in batch.items()}
        short["concepts"] = batch["concepts"][:, : length // STRIDE]
        losses, metrics = made(hidden[:, :length], embedded[:, :length], short, head)
        assert {name: loss.item() for name, loss in losses.items()} == dict.fromkeys(SLOW, 0.0)
        assert all(value.isnan().all() for value in metrics.values())
        sum(losses.values()).backward()
        for tensor in (hidden, head, *made.parameters()):
            assert tensor.grad is None or not tensor.grad.any()


def test_no_answer_is_no_loss_however_great_the_states_are() -> None:
    """Their sum is beyond fp16, and infinity times zero is not zero."""
    hidden = torch.full((4, 256, 128), 1.0, dtype=torch.float16, requires_grad=True)
    loss = nothing(View(hidden, hidden, {}, hidden))
    loss.backward()
    assert loss.item() == 0.0 and loss.dtype == torch.float32 and not hidden.grad.any()


def test_what_is_not_weighed_does_not_exist() -> None:
    none = objectives()
    assert not none.state_dict() and not none.labels and none(*drawn()) == ({}, {})
    assert set(none.loss_weights.values()) == {0.0} and {"policy", "memory"} <= none.loss_weights.keys()
    assert objectives(genre_weight=0.5).labels == {"prefix", "category"}
    assert objectives(genre_weight=0.5).loss_weights["genre"] == 0.5
    assert objectives(energy_weight=0.5).labels == frozenset()


def test_a_batch_without_labels_gets_the_losses_that_need_none() -> None:
    hidden, embedded, batch, head = drawn()
    plain = {name: batch[name] for name in ("tokens", "targets")}
    assert objectives(**WEIGHTS)(hidden, embedded, plain, head)[0].keys() == {"continuation", "energy"}


TOPICS, SEGMENTS, SEGMENT = 12, 4, 32


def lesson(seed: int, shuffled: bool, rows: int = 16) -> Batch:
    """Windows whose segments' topics follow each other in a circle. A topic has three words of its own; the first
    segment's tells book, quarter and genre; a topic is a concept. Shuffled: all of it by chance instead."""
    g = torch.Generator().manual_seed(seed)

    def topics() -> Tensor:
        return (torch.randint(TOPICS, (rows, 1), generator=g) + torch.arange(SEGMENTS + 3)) % TOPICS

    told = topics()
    if shuffled:
        told = torch.randint(TOPICS, told.shape, generator=g)
    shape = rows, SEGMENTS * SEGMENT + HORIZON + 1
    words = 3 * told.repeat_interleave(SEGMENT, 1)[:, : shape[1]] + torch.randint(3, shape, generator=g)
    blank = torch.rand(shape, generator=g) < 0.5
    tokens = torch.where(blank, torch.randint(36, 40, shape, generator=g), words)
    labelled = topics() if shuffled else told
    spoken = torch.zeros(rows, SEGMENTS * SEGMENT // STRIDE, len(CONCEPTS))
    of_token = labelled.repeat_interleave(SEGMENT, 1)
    for p in range(spoken.shape[1]):
        spoken[:, p].scatter_(1, of_token[:, (p + 1) * STRIDE :][:, :HORIZON], 1.0)
    first, length = labelled[:, 0], SEGMENTS * SEGMENT
    return {
        "tokens": tokens[:, :length], "targets": tokens[:, 1 : length + 1], "concepts": spoken,
        "prefix": torch.full((rows,), SEGMENT), "document": first // 2, "place": first % 4, "category": first // 4,
    }  # fmt: skip


def taught(shuffled: bool) -> dict[str, float]:
    """Losses and metrics on lessons not yet given, of a small trunk and the heads after sixty of them."""
    trunk = build_model(
        plugins.find("models", "decoder").build,
        Trunk(vocab_size=VOCABULARY, context=128, width=WIDTH, layers=1, heads=2), 0, torch.device("cpu"),
    )  # fmt: skip
    made = objectives(concept_weight=1, continuation_weight=1, reference_weight=1, genre_weight=1)
    optimizer = torch.optim.AdamW([*trunk.parameters(), *made.parameters()], lr=1e-2)
    results, known = [], []
    for step in range(70):
        batch = lesson(step, shuffled)
        hidden, embedded = trunk.hidden(batch["tokens"]), trunk.embedding(batch["tokens"])
        losses, metrics = made(hidden, embedded, batch, trunk.embedding.weight)
        if step < 60:
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
        else:
            results.append({**losses, **{name: value.nanmean() for name, value in metrics.items()}})
            known.append((made.terms["concepts"].head(hidden[:, STRIDE - 1 :: STRIDE]), batch["concepts"]))
    figures = {name: float(torch.stack([r[name].detach() for r in results]).mean()) for name in results[0]}
    scores, truth = (
        torch.cat(column).flatten(0, 1)[:, :TOPICS].detach().numpy() for column in zip(*known, strict=True)
    )
    return {**figures, "concepts_auroc": min(auroc(scores[:, k], truth[:, k] > 0) for k in range(TOPICS))}


def constant_concepts() -> float:
    """The least that concepts cost whoever gives each the same answer everywhere."""
    rates = torch.tensor(RATES).clamp(min=0.01)
    truth = torch.stack([lesson(step, True)["concepts"] for step in range(60, 70)]).flatten(0, 2)
    yes, no = truth.mean(0) / (2 * rates), (1 - truth.mean(0)) / (2 * (1 - rates))
    return float((yes + no).mul(torch.special.entr(yes / (yes + no)) + torch.special.entr(no / (yes + no))).mean())


def test_what_can_be_learnt_is_learnt() -> None:
    found = taught(shuffled=False)
    assert found["book_accuracy"] > 0.9 and found["quarter_accuracy"] > 0.9 and found["genre_accuracy"] > 0.9
    assert found["concepts_auroc"] > 0.8  # whether the last of two or three topics is reached is hard to tell
    # Of the 64 segments of a batch, five or so have the topic that comes next.
    assert found["continuation_accuracy"] > 0.12 and found["continuation"] < math.log(SEGMENTS * 16) - 1.5


def test_without_information_no_loss_falls_below_that_of_not_looking() -> None:
    found = taught(shuffled=True)
    assert found["book_accuracy"] < 0.3 and found["quarter_accuracy"] < 0.4 and found["genre_accuracy"] < 0.5
    assert found["reference"] > math.log(6) + math.log(4) - 0.05 and found["genre"] > math.log(3) - 0.05
    assert found["continuation_accuracy"] < 0.06 and found["continuation"] > math.log(SEGMENTS * 16) - 0.1
    assert found["concepts"] > constant_concepts() - 0.02 and found["concepts_auroc"] < 0.6


def test_classes_are_told_apart_by_the_trunk_not_by_the_bias() -> None:
    """The heads of a fresh model give every class about the same odds."""
    losses, _ = objectives(**WEIGHTS)(*drawn())
    assert losses["genre"].item() == pytest.approx(math.log(3), abs=0.1)
    assert losses["reference"].item() == pytest.approx(math.log(6) + math.log(4), abs=0.1)


def test_a_class_that_the_head_has_not_got_is_refused() -> None:
    hidden, embedded, batch, head = drawn()
    batch["category"][0] = 3
    with pytest.raises(IndexError):
        objectives(genre_weight=1)(hidden, embedded, batch, head)
