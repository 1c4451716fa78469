import copy
import gc
import io
import weakref

import pytest
import torch
from instant_cases import SMALL, gradients, small, some_tokens, total_loss

from eco.models import huggingface
from eco.models.contract import build_model
from eco.models.instant import apply, apply_instant
from eco.models.instant.instant import Segment, segments
from eco.models.instant.replay import Replay, SubLayer
from eco.plugins import find

CPU = torch.device("cpu")


def bare(name, **changes):
    config = SMALL[name].model_copy(update=changes)
    return build_model(find("models", config.family).build, config, 0, CPU)


@pytest.mark.parametrize("name", ["sigma", "decoder"])
@pytest.mark.parametrize("mode", ["coupling", "checkpoint", "fixed_point"])
def test_a_model_runs_only_once_instant_is_applied(name, mode):
    model, tokens = bare(name, instant_mode=mode), some_tokens()
    for run in (model, model.hidden):
        with pytest.raises(RuntimeError, match="apply_instant"):
            run(tokens)
    with pytest.raises(RuntimeError, match="apply_instant"):
        total_loss(model, tokens)
    figures = apply_instant(model)
    attention = 1 if name == "sigma" else 3
    mamba = sum(not block for block in model.config.attention_blocks)
    assert figures["instant_patched_mamba"] == mamba and figures["instant_patched_mla"] >= attention
    assert model.algorithmic_features()["instant_enabled"] == 1
    total_loss(model, tokens).backward()
    assert model.evidence()["instant"] > 0


def test_nothing_is_applied_where_nothing_is_asked_for():
    for name in ("sigma", "decoder"):
        model = bare(name)
        assert apply_instant(model) == {} and model.instant is None
        assert not {"instant", "instant_compress"} & {*model.features}
        assert model.algorithmic_features().get("instant_enabled", 0) == 0


def test_an_inversion_that_misses_is_an_error(monkeypatch):
    monkeypatch.setattr(apply, "GREATEST_ERROR", -1.0)
    with pytest.raises(RuntimeError, match="relative error"):
        apply_instant(bare("sigma", instant_mode="coupling"))


def test_the_self_test_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    apply_instant(bare("sigma-dropout", instant_mode="coupling"))
    assert torch.equal(state, torch.get_rng_state())


def test_without_a_backward_pass_there_is_no_evidence():
    model = small("sigma", instant_mode="coupling")
    total_loss(model, some_tokens())
    assert model.evidence()["instant"] == 0


def test_figures_are_those_of_the_step_that_is_over():
    model = small("sigma", instant_mode="coupling")
    total_loss(model, some_tokens()).backward()
    saved = model.evidence()["instant"]
    model.after_step()
    assert model.instant.metrics()["instant_saved_gb"] == saved > 0 == model.evidence()["instant"]
    assert model.instant.metrics()["instant_drift"] == 0


def test_segments_end_behind_attention_and_around_what_is_compressed():
    attention = [False, False, True, False, False, True]
    none = [False] * 6
    assert segments(attention, none) == [Segment(0, 3, False), Segment(3, 6, False)]
    assert segments([True] * 4, [False] * 4) == [Segment(0, 4, False)]
    assert segments(attention, attention) == [
        Segment(0, 2, False), Segment(2, 3, True), Segment(3, 5, False), Segment(5, 6, True),
    ]  # fmt: skip


def test_transformers_has_no_model_of_two_streams(tmp_path):
    with pytest.raises(ValueError, match="instant_mode coupling"):
        huggingface.save(small("decoder", instant_mode="coupling"), tmp_path)
    huggingface.save(small("decoder", instant_mode="checkpoint"), tmp_path)
    assert (tmp_path / "config.json").exists()


def test_a_decoder_of_two_streams_has_no_fused_step():
    assert small("decoder", instant_mode="coupling").fused_step() is None
    assert small("decoder", instant_mode="checkpoint").fused_step() is not None


@pytest.mark.parametrize("name", ["sigma-plain", "decoder"])
@pytest.mark.parametrize("mode", ["coupling", "checkpoint", "fixed_point"])
def test_weights_in_bf16_compute_without_autocast(name, mode):
    """As `from_pretrained(dtype=torch.bfloat16)` has them. Plain: ternary weights make jumps of rounding."""
    model = small(name, instant_mode=mode).eval()
    tokens = some_tokens()[:, :-1]
    with torch.no_grad():
        exact, found = model(tokens), model.bfloat16()(tokens)
    assert found.dtype == torch.bfloat16
    assert (found - exact).norm() < 0.1 * exact.norm()
    model.train().training_step({"tokens": tokens, "targets": tokens}).losses["lm"].backward()
    assert all(p.grad.dtype == torch.bfloat16 and p.grad.isfinite().all() for p in model.blocks[0].parameters())


def test_with_micro_batches_the_evidence_of_compression_is_that_of_one():
    model = small("decoder", instant_compress="all", context=256)
    total_loss(model, some_tokens(64)).backward()
    one = model.evidence()["instant_compress"]
    total_loss(model, some_tokens(64)).backward()
    assert one > 0 and model.evidence()["instant_compress"] == pytest.approx(one, rel=0.1)


def test_a_mode_and_compression_are_told_apart():
    """Neither proves the other: without bytes worth compressing, what the mode saves is no evidence of compression."""
    model = small("sigma", instant_mode="checkpoint", instant_compress="attention")
    total_loss(model, some_tokens(1)).backward()
    assert model.evidence()["instant"] > 0 == model.evidence()["instant_compress"]
    assert {"instant", "instant_compress"} <= {*model.features}
    total_loss(model, some_tokens(256)).backward()
    assert model.evidence()["instant_compress"] > 0
    model = small("sigma", instant_mode="checkpoint")
    assert "instant_compress" not in {*model.features, *model.evidence()}
    model = small("decoder", instant_compress="all")
    assert model.features == ("instant_compress",) == tuple(model.evidence())


def test_outside_of_training_compression_learns_nothing():
    model = small("decoder", instant_compress="all", context=256).eval()
    total_loss(model, some_tokens(64)).backward()
    assert model.instant.state_dict()["slots"] == {}
    model.train()
    total_loss(model, some_tokens(64)).backward()
    assert model.instant.state_dict()["slots"] != {}


WAYS = {
    "coupling": {"instant_mode": "coupling"},
    "fixed_point": {"instant_mode": "fixed_point"},
    "compressed": {"instant_mode": "checkpoint", "instant_compress": "attention", "context": 256},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ended", [True, False], ids=["after a step", "within one"])
def test_a_model_can_be_pickled_and_a_copy_holds_nothing_of_it(way, ended):
    model, tokens = small("sigma", **WAYS[way]), some_tokens(64)
    total_loss(model, tokens).backward()
    if ended:
        model.after_step()
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    copied, loaded = copy.deepcopy(model), torch.load(stream, weights_only=False)
    held = weakref.ref(model)
    del model
    gc.collect()
    assert held() is None
    losses = [total_loss(twin, tokens) for twin in (copied, loaded)]
    assert torch.equal(*losses)
    for twin, loss in zip((copied, loaded), losses, strict=True):
        loss.backward()
        assert twin.evidence()["instant"] > 0


@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_begins_anew_is_as_if_it_had_begun_once(way):
    """What it does to weights, biases of the routing, figures and what compression has learned."""
    ends = []
    for again in (False, True):
        model = small("sigma", **WAYS[way])
        for seed in range(2):
            if again:
                total_loss(model, some_tokens(64, seed=9)).backward()
                total_loss(model, some_tokens(64, seed=8))
                model.forget_step()
            found = gradients(model, some_tokens(64, seed=seed))
            evidence = model.evidence()
            model.after_step()
        ends.append({**found, **model.state_dict(), **evidence, **flat(model.instant.state_dict())})
        ends[-1] |= model.instant.metrics()
    assert ends[0].keys() == ends[1].keys()
    ratios = [end.pop("instant_compression_ratio", 0.0) for end in ends]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.05), "codes of ternary weights are counted where they are made"
    assert [name for name in ends[0] if not equal(ends[0][name], ends[1][name])] == []


@pytest.mark.parametrize("mode", ["coupling", "fixed_point"])
@pytest.mark.parametrize("name", ["sigma", "decoder"])
def test_to_decode_a_token_no_parameters_are_collected(name, mode, monkeypatch):
    model, asked = small(name, instant_mode=mode).eval(), []
    whole = SubLayer.parameters.fget
    monkeypatch.setattr(SubLayer, "parameters", property(lambda part: asked.append(part) or whole(part)))
    monkeypatch.setattr(torch.nn.Module, "parameters", lambda module, recurse=True: pytest.fail("collected"))
    with torch.no_grad():
        model(some_tokens()[:, :1], model.new_cache(4, 2))
    monkeypatch.undo()
    assert asked == []


def flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {name: leaf for key, part in tree.items() for name, leaf in flat(part, f"{prefix}/{key}").items()}


def equal(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("mode", ["coupling", "checkpoint", "fixed_point"])
@pytest.mark.parametrize("name", ["sigma", "decoder"])
def test_steps_leave_nothing_behind(name, mode, monkeypatch):
    """Also one without a backward pass."""
    made: list[weakref.ref] = []
    first_run = Replay.__init__

    def init(replay, device):
        first_run(replay, device)
        made.append(weakref.ref(replay))

    monkeypatch.setattr(Replay, "__init__", init)
    model = small(name, instant_mode=mode)
    total_loss(model, some_tokens()).backward()
    total_loss(model, some_tokens())
    gc.collect()
    assert made and not any(replay() for replay in made)


def test_the_model_is_not_held_after_the_step():
    """Not even in a ring, which would keep its memory until the next collection."""
    model = small("sigma", instant_mode="coupling")
    total_loss(model, some_tokens()).backward()
    model.after_step()
    gc.collect()
    gc.disable()
    try:
        instant, held = model.instant, weakref.ref(model)
        del model
        assert held() is None and instant.tally.saved == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["sigma", "sigma-dropout", "decoder", "decoder-dropout"])
def test_checkpoint_gives_the_losses_and_gradients_of_off(name):
    plain, again = small(name), small(name, instant_mode="checkpoint")
    expected, found = (total_loss(model, some_tokens()) for model in (plain, again))
    assert torch.equal(expected, found)
    expected.backward()
    found.backward()
    for (weight, one), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert (one.grad - other.grad).norm() <= 1e-5 * one.grad.norm(), weight
