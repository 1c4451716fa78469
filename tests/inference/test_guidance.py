"""Guidance: what it computes, its cache, and a model of two styles that writes in the one that it is asked for."""

import pytest
import torch

from eco.inference import Engine, Sampling
from eco.inference.guidance import SETTINGS, Guided, read_control
from eco.models import simone
from eco.models.contract import build_model
from eco.models.decoder import Config as DecoderConfig
from eco.models.decoder import build as build_decoder

CONTEXT = 24
CONFIG = simone.Config(vocab_size=258, context=CONTEXT, width=32, layers=2, heads=2, control=True, control_dropout=0.2)
CONTROL = "quality=0.9,priority=high,decay=0.2"
NAN = float("nan")
GREEDY = Sampling(temperature=0, max_new_tokens=8)


def strong(config):
    """A model that is not trained, but with all weights away from where they start."""
    made = build_model(simone.build, config, 0, torch.device("cpu")).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return made


@pytest.fixture(scope="module")
def model():
    return strong(CONFIG)


@pytest.fixture(scope="module", params=[{}, {"policy_rank": 2, "forgetting": True}, {"memory_slots": 2, "segment": 6}])
def any_model(request):
    """With each of the parts that keep something of their own in the cache."""
    return strong(simone.Config(**{**CONFIG.model_dump(), **request.param}))


@pytest.fixture
def tokens():
    return torch.randint(0, 256, (3, 12), generator=torch.Generator().manual_seed(7))


def channels(count, quality=0.9, alignment=NAN, priority=0.9, decay=0.2):
    """(1, count, 5) of a document from its beginning."""
    known = torch.tensor([quality, alignment, priority, decay]).expand(1, count, 4)
    return torch.cat([known, (torch.arange(count) / CONTEXT)[None, :, None]], -1)


@torch.no_grad()
def by_hand(model, tokens, scale):
    conditioned, unconditioned = model(tokens, control=channels(tokens.shape[1])), model(tokens)
    return unconditioned + scale * (conditioned - unconditioned)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
@torch.no_grad()
def test_logits_go_from_those_without_towards_those_with(model, tokens, scale):
    expected = by_hand(model, tokens, scale)
    torch.testing.assert_close(Guided(model, CONTROL, scale)(tokens), expected, rtol=1e-4, atol=1e-4)
    last = Guided(model, CONTROL, scale)(tokens, last_only=True)
    torch.testing.assert_close(last, expected[:, -1:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_control_reaches_the_logits(model, tokens):
    assert (by_hand(model, tokens, 1.0) - by_hand(model, tokens, 0.0)).abs().mean() > 0.1
    other = Guided(model, "quality=0.1,priority=high,decay=0.2", 1.0)(tokens)
    assert (Guided(model, CONTROL, 1.0)(tokens) - other).abs().mean() > 0.01


@pytest.mark.parametrize("scale", [1.0, 2.0])
@torch.no_grad()
def test_cached_is_as_full(any_model, tokens, scale):
    guided = Guided(any_model, CONTROL, scale)
    cache = guided.new_cache(3, 12)
    parts = [guided(tokens[:, :5], cache)] + [guided(tokens[:, at : at + 1], cache) for at in range(5, 12)]
    torch.testing.assert_close(torch.cat(parts, 1), guided(tokens), rtol=1e-4, atol=1e-4)
    assert cache.length == 12


@pytest.mark.parametrize("scale", [1.0, 2.0])
@torch.no_grad()
def test_padded_rows_branch_and_leave_in_both_halves(model, tokens, scale):
    guided = Guided(model, CONTROL, scale)
    cache = guided.new_cache(3, 6, torch.tensor([0, 2, 4]))
    guided(tokens[:, :6], cache)
    cache.branch(torch.tensor([2, 0, 1, 2]), 6, shared=False)
    guided(tokens[[2, 0, 1, 2], 6:7], cache)
    cache.keep(torch.tensor([0, 2]))
    logits = guided(tokens[[2, 1], 7:8], cache)[:, 0]
    for row, (source, padding) in enumerate([(2, 4), (1, 2)]):
        expected = by_hand(model, tokens[source : source + 1, padding:8], scale)[0, -1]
        torch.testing.assert_close(logits[row], expected, rtol=1e-4, atol=1e-4)


def test_the_engine_writes_as_a_loop_without_cache_does(any_model, byte_tokenizer):
    prompts = ["a", "abcd", "xy"]
    engine = Engine(Guided(any_model, CONTROL, 2.0), byte_tokenizer)
    done = engine.generate(prompts, GREEDY)
    for prompt, [completion] in zip(prompts, done, strict=True):
        ids = list(prompt.encode())
        for token in completion.tokens:
            assert token == int(by_hand(any_model, torch.tensor([ids]), 2.0)[0, -1, :257].argmax())
            ids.append(token)
    assert "".join(engine.stream("abcd", GREEDY)) == done[1][0].text


def test_the_position_stays_within_the_context(model):
    guided = Guided(model, CONTROL)
    positions = guided._control(torch.zeros(1, CONTEXT + 3, dtype=torch.int64), None)[0, :, -1]
    expected = [min(1.0, place / CONTEXT) for place in range(CONTEXT + 3)]
    assert positions.tolist() == pytest.approx(expected)


def test_read_control():
    read = read_control({"alignment": 0, "priority": 0.7, "decay": "0.1"})
    assert read == pytest.approx([NAN, 0, 0.7, 0.1], nan_ok=True)
    assert read_control("quality=1.0, priority=high") == pytest.approx([1.0, NAN, 0.9, NAN], nan_ok=True)
    assert read_control("quality=1.0,alignment=0.5") == pytest.approx([1.0, 0.5, NAN, 0.75], nan_ok=True)
    assert len(read_control("decay=1")) == len(SETTINGS)


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ("qualty=1", "no channel 'qualty'; did you mean 'quality'"),
        ("quality=9", "'quality' is '9'; give a number from 0 to 1"),
        ("quality=nan", "give a number from 0 to 1"),
        ("priority=urgent", "from 0 to 1, or one of high, medium, low"),
        ("quality", "written channel=value"),
        ("quality=1,quality=0", "twice"),
        ("position=0.5", "is counted"),
        ("", "the control is empty"),
        ({"quality": None}, "'quality' is None"),
    ],
)
def test_bad_control(control, message):
    with pytest.raises(ValueError, match=message):
        read_control(control)


def test_a_model_without_control_and_a_scale_that_is_none(model):
    plain = build_model(
        build_decoder, DecoderConfig(vocab_size=258, width=32, layers=1, heads=2), 0, torch.device("cpu")
    )
    with pytest.raises(ValueError, match="trained without control"):
        Guided(plain, CONTROL)
    with pytest.raises(ValueError, match="guidance is -1"):
        Guided(model, CONTROL, -1)


STEPS = 100
LETTERS = torch.tensor(list(b"abcd"))
HIGH = torch.tensor([0.5, 0.3, 0.15, 0.05])
"""Probabilities of the letters in documents of quality 0.9, each drawn alone; reversed they are those of 0.3."""


def documents(count, generator):
    """tokens, targets (count, CONTEXT) and their channels: a dot, then letters of one style or the other."""
    high = torch.rand(count, generator=generator) < 0.5
    styles = torch.where(high[:, None], HIGH, HIGH.flip(0))
    letters = LETTERS[torch.multinomial(styles, CONTEXT, replacement=True, generator=generator)]
    text = torch.cat([torch.full((count, 1), ord(".")), letters], 1)
    control = torch.cat([channels(CONTEXT, 0.9 if row else 0.3, 0.5, 0.5, 0.5) for row in high.tolist()])
    return {"tokens": text[:, :-1], "targets": text[:, 1:], "control": control}


@pytest.fixture(scope="module")
def writer():
    """Trained on both styles, with the metadata of four documents in five."""
    config = CONFIG.model_copy(update={"layers": 1})
    made = build_model(simone.build, config, 0, torch.device("cpu")).train()
    optimizer, generator = torch.optim.Adam(made.parameters()), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / STEPS)
        made.training_step(documents(48, generator)).losses["lm"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return made.eval()


@torch.no_grad()
def test_a_trained_model_knows_each_style_and_their_mixture(writer):
    start = torch.tensor([[ord(".")]])
    for scale, quality, expected in [(1.0, 0.9, HIGH), (1.0, 0.3, HIGH.flip(0)), (0.0, 0.9, (HIGH + HIGH.flip(0)) / 2)]:
        guided = Guided(writer, {"quality": quality}, scale)
        probabilities = guided(start)[0, -1].softmax(-1)[LETTERS]
        torch.testing.assert_close(probabilities, expected, rtol=0, atol=0.06 if scale == 0 else 0.03)
    twice = Guided(writer, {"quality": 0.9}, 2.0)(start)[0, -1].softmax(-1)[LETTERS]
    exaggerated = HIGH**2 / (HIGH + HIGH.flip(0))
    torch.testing.assert_close(twice, exaggerated / exaggerated.sum(), rtol=0, atol=0.08)


@torch.no_grad()
def test_held_out_documents_are_likelier_with_their_metadata(writer):
    batch = documents(256, torch.Generator().manual_seed(99))

    def nll(control):
        logits = writer(batch["tokens"], control=control).flatten(0, 1)
        return float(torch.nn.functional.cross_entropy(logits, batch["targets"].flatten()))

    entropy = float(-(HIGH * HIGH.log()).sum())
    known, unknown, wrong = nll(batch["control"]), nll(None), nll(batch["control"].roll(1, 0))
    quality = batch["control"].clone()
    quality[..., 1:4] = NAN
    assert nll(quality) == pytest.approx(known, abs=0.01)
    assert entropy - 0.02 < known < entropy + 0.03
    assert known + 0.02 < unknown < wrong


def test_what_is_written_follows_the_control_and_guidance_strengthens_it(writer, byte_tokenizer):
    sampling = Sampling(temperature=1.0, max_new_tokens=3, seed=5)

    def share(scale, quality=0.9):
        """Of the letters that documents of quality 0.9 prefer."""
        guided = Guided(writer, {"quality": quality}, scale)
        [done] = Engine(guided, byte_tokenizer).generate(["."], sampling, samples=200)
        text = "".join(completion.text for completion in done)
        return sum(letter in "ab" for letter in text) / len(text)

    without, other, asked, guided = share(0.0), share(1.0, 0.3), share(1.0), share(2.0)
    assert other < 0.3
    assert 0.35 < without < 0.65
    assert 0.7 < asked < 0.9
    assert guided > asked + 0.05
