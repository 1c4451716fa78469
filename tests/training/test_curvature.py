"""The curvature that labels drawn from the model's own predictions show, and the damping in real runs."""

import copy
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_run import SMALL_PUZZLES, read_rows
from torch import nn
from toy import Toy

import eco as package
from eco.models import decoder, sigma
from eco.models.contract import IGNORE, LanguageModel, LanguageModelConfig, StepOutput, build_model
from eco.observe.phases import Phases
from eco.optim import gnprox
from eco.training.config import TrainConfig
from eco.training.curvature import Curvature, sampled_labels
from eco.training.distributed import World
from eco.training.precision import Precision
from eco.training.trainer import Trainer

WORDS, WIDTH = 5, 3
CPU = torch.device("cpu")
FP32 = Precision("fp32", CPU)


class Bigrams(LanguageModel):
    """The next token by a softmax of two matrices, in float64: small enough for its Gauss-Newton matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.config = LanguageModelConfig(family="bigrams", vocab_size=WORDS)
        self.embedding = nn.Parameter(torch.empty(WORDS, WIDTH, dtype=torch.float64))
        self.out = nn.Parameter(torch.empty(WORDS, WIDTH, dtype=torch.float64))
        self.init_weights(torch.Generator().manual_seed(0))

    def init_weights(self, generator):
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, tokens, cache=None, *, last_only=False):
        return self.embedding[tokens] @ self.out.T

    def training_step(self, batch, carry=None):
        logits = self(batch["tokens"])
        return StepOutput({"lm": F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())})

    def new_cache(self, batch, length, padding=None):
        raise NotImplementedError

    def flops_per_token(self):
        return 0.0


def text(rows=4, length=12, words=WORDS):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(words, (rows, length + 1), generator=generator)
    return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}


def trainer(model, batch, *, world=None, train=None, **settings):
    """A trainer of `model` on the one `batch` with gnprox and its callback, which is also returned."""
    config = gnprox.Config(**settings)
    optimizer = gnprox.build(config, model)
    curvature = Curvature(optimizer, config, model, FP32)
    loop = TrainConfig(**{"steps": 1, "batch_size": len(batch["tokens"]), "schedule": "constant", **(train or {})})

    def source(position):
        while True:
            yield batch

    run = Trainer(loop, model, optimizer, source, FP32, Phases(CPU), callbacks=[curvature], world=world)
    return run, curvature


def gauss_newton_diagonal(model, batch):
    """Mean over the tokens of diag(J^T (diag(p) - p p^T) J), J being the logits' Jacobian, by differentiation."""
    parameters = dict(model.named_parameters())

    def logits(values):
        return torch.func.functional_call(model, values, (batch["tokens"],)).flatten(0, 1)

    jacobians = torch.func.jacrev(logits)(parameters)
    p = logits(parameters).detach().softmax(-1)
    hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    diagonals = {}
    for name, jacobian in jacobians.items():
        flat = jacobian.detach().flatten(2)  # (tokens, logits, weights)
        diagonals[name] = torch.einsum("nvw,nvu,nuw->w", flat, hessian, flat) / len(p)
    return diagonals


def test_the_sampled_curvature_is_the_gauss_newton_diagonal():
    model, batch, draws = Bigrams(), text(), 600
    run, curvature = trainer(model, batch, beta2=0.0)  # without memory: each refresh leaves its own sample
    means = {name: torch.zeros(p.numel(), dtype=torch.float64) for name, p in model.named_parameters()}
    for run.step in range(draws):
        curvature._sample(run, batch)
        for name, parameter in model.named_parameters():
            means[name] += run.optimizer.state[parameter]["curvature"].flatten() / draws
    exact = gauss_newton_diagonal(model, batch)
    for name, mean in means.items():
        assert float((mean - exact[name]).norm() / exact[name].norm()) < 0.12, name
    model.zero_grad()
    model.training_step(batch).losses["lm"].backward()
    given = batch["targets"].numel() * model.out.grad.flatten().square()
    assert float((given - exact["out"]).norm() / exact["out"].norm()) > 0.5, "the text's own labels show another"


def test_labels_are_drawn_as_the_model_predicts_and_leave_everything_else_alone():
    model, batch = Bigrams().train(), text(rows=40, length=200)
    batch["targets"][:, -1] = IGNORE
    state = torch.get_rng_state()
    labels = sampled_labels(model, FP32, batch, torch.Generator().manual_seed(3))
    assert torch.equal(labels, sampled_labels(model, FP32, batch, torch.Generator().manual_seed(3)))
    assert not torch.equal(labels, sampled_labels(model, FP32, batch, torch.Generator().manual_seed(4)))
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert (labels[:, -1] == IGNORE).all() and (labels[:, :-1] != IGNORE).all()
    for word in range(WORDS):
        after = labels[:, :-1][batch["tokens"][:, :-1] == word]
        frequencies = after.bincount(minlength=WORDS) / len(after)
        expected = model(torch.tensor([[word]]))[0, 0].detach().softmax(-1)
        assert float((frequencies - expected).abs().max()) < 4 * math.sqrt(0.25 / len(after))


def test_labels_are_drawn_without_dropout():
    model = build_model(decoder.build, small(decoder), 0, CPU).train()
    one, two = (sampled_labels(model, FP32, text(words=61), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)


def test_a_sample_takes_as_many_of_the_batch_as_it_is_told(monkeypatch):
    run, _ = trainer(Bigrams(), text(rows=4, length=12), sophia_samples=3)
    counts = []
    monkeypatch.setattr(run.optimizer, "refresh", lambda count: counts.append(count) or 1.0)
    run.fit()
    assert counts == [3 * 12]


@pytest.mark.parametrize("weight", [1.0, 0.1])
@pytest.mark.parametrize("grad_clip", [0.0, 0.05])
def test_a_small_step_keeps_its_promise_also_under_clipped_gradients_and_other_weights(grad_clip, weight):
    config, rows = small(decoder).model_copy(update={"dropout": 0.0}), []
    model = build_model(decoder.build, config, 0, CPU)
    loop = {"steps": 3, "grad_clip": grad_clip, "loss_weights": {"lm": weight}}
    run, curvature = trainer(model, text(words=61), lr=1e-4, beta1=0.0, damping_every=1, train=loop)
    curvature.step = lambda trainer, row: rows.append(row)
    run.fit()
    assert rows[0]["grad_norm"] > 2 * grad_clip
    assert [row["gnprox_reduction_ratio"] for row in rows] == pytest.approx([1, 1, 1], abs=0.05)
    assert [row["gnprox_damping"] for row in rows] == pytest.approx([1e-4 * down for down in (0.8, 0.8**2, 0.8**3)])


def test_a_sample_that_is_not_finite_leaves_the_curvature_as_it_was():
    model, batch = Bigrams(), text()
    run, curvature = trainer(model, batch)
    curvature._sample(run, batch)
    before = [run.optimizer.state[p]["curvature"].clone() for p in model.parameters()]
    model.out.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), math.inf))
    curvature._sample(run, batch)
    assert all(
        torch.equal(run.optimizer.state[p]["curvature"], h) for p, h in zip(model.parameters(), before, strict=True)
    )


def small(family):
    sizes = {"vocab_size": 61, "context": 24, "width": 32, "layers": 2, "heads": 4, "dropout": 0.1}
    if family is decoder:
        return decoder.Config(**sizes)
    return sigma.Config(
        **sizes | {"layers": 3}, mamba_ratio=2, head_size=16, state=8, mimo_rank=2, chunk=8, latent=16, rope_size=4,
        feed_forward=48, routed_experts=4, document_end=-1,
    )  # fmt: skip


@pytest.mark.parametrize("family", [decoder, sigma])
def test_looking_moves_nothing_of_the_run(family):
    """Only damping and curvature change; with both kept from acting, the run is the one without the callback."""

    def weights(look):
        model = build_model(family.build, small(family), 0, CPU)
        every = 1 if look else 1000
        settings = {"sophia_every": every, "damping_every": every, "sophia_rho": 1e-30, "eps": 1e-3}
        run, curvature = trainer(model, text(words=61), train={"steps": 4}, **settings)
        if not look:
            run.callbacks.remove(curvature)
        state = torch.get_rng_state()
        run.fit()
        torch.set_rng_state(state)
        return copy.deepcopy(model.state_dict()), run

    plain, _ = weights(look=False)
    watched, run = weights(look=True)
    assert run.ledger.row()["feature_gnprox_effective_calls"] == 4
    assert run.ledger.row()["feature_gnprox_evidence"] > 0
    assert all(torch.equal(watched[name], tensor) for name, tensor in plain.items())


class Twin(World):
    """One of two processes whose other half has the same numbers."""

    def __init__(self):
        super().__init__()
        self.size, self.averaged = 2, []

    def share(self, samples):
        return samples

    def average(self, tensors):
        self.averaged.append([tensor.clone() for tensor in tensors])

    def agree(self, flag):
        return flag


def test_processes_share_their_samples_and_their_verdict():
    batch, world = text(), Twin()
    alone, beside, sampled = Bigrams(), Bigrams(), []
    for model, where in ((alone, None), (beside, world)):
        run, _ = trainer(model, batch, world=where, lr=1e-3, damping_every=1)
        run.fit()
        sampled.append([run.optimizer.state[p]["curvature"] for p in model.parameters()])
    for parameter, single, double in zip(beside.parameters(), *sampled, strict=True):
        torch.testing.assert_close(double, 2 * single)  # the same mean gradient of twice the labels
        assert any(any(torch.equal(t, parameter.grad) for t in message) for message in world.averaged)
    assert any([t.shape for t in message] == [torch.Size([1])] for message in world.averaged), "the change of the loss"


def test_models_without_logits_and_fp16_are_refused(tmp_path):
    config, toy = gnprox.Config(), Toy()
    with pytest.raises(ValueError, match="draws labels from a language model's predictions"):
        Curvature(gnprox.build(config, toy), config, toy, FP32)
    with pytest.raises(ValueError, match="--precision bf16"):
        Curvature(gnprox.build(config, Bigrams()), config, Bigrams(), Precision("fp16", CPU))
    recipe = tmp_path / "puzzles.yaml"
    recipe.write_text(SMALL_PUZZLES.replace("adam_atan2", "gnprox"))
    with pytest.raises(ValueError, match=r"puzzle table|draws labels"):
        package.train(str(recipe), {"output_dir": str(tmp_path / "run")})


@pytest.mark.parametrize("mode", ["sophia", "soap"])
def test_a_run_goes_on_bit_identically(tiny, tmp_path, mode):
    settings = {
        "optimizer.name": "gnprox", "optimizer.gn_mode": mode, "optimizer.damping_every": 3,
        "optimizer.sophia_every": 4, "optimizer.soap_every": 3, "optimizer.lr": 0.003, "model.dropout": 0.1,
        "checkpoint.keep": 9,
    }  # fmt: skip
    whole, part = tmp_path / "whole", tmp_path / "part"
    package.train(tiny, settings | {"output_dir": str(whole)})
    shutil.copytree(whole, part)
    for folder in (part / "checkpoints").glob("step_*"):
        if folder.name > "step_00000004":
            shutil.rmtree(folder)
    package.resume(part)
    keys = ["step", "loss", "gnprox_step_elements"]
    keys += ["gnprox_damping", "gnprox_reduction_ratio", "gnprox_curvature_ratio", "feature_gnprox_evidence"]
    one, two = ([[row.get(key) for key in keys] for row in read_rows(run)[1:]] for run in (whole, part))
    assert one == two
    assert read_rows(part)[-1]["checkpoint_resume_step"] == 4
    if mode == "sophia":
        assert [row[0] for row in one if row[5] is not None] == [1, 4, 7, 10]
        assert len({row[3] for row in one}) > 2, "the damping moved"
    for file in ("model", "optimizer"):
        first, second = (load_file(run / "checkpoints/step_00000012" / f"{file}.safetensors") for run in (whole, part))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
