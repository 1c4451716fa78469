"""Generation against a model whose continuation is known."""

import pytest
import torch

from eco.inference import Engine, Sampling

GREEDY = Sampling(temperature=0, max_new_tokens=8)


def test_continues_each_prompt_from_its_own_position(reciter, byte_tokenizer):
    engine = Engine(reciter("abcdefghijklmnopqrstuvwxyz"), byte_tokenizer)
    done = engine.generate(["a", "abcd", "ab"], GREEDY)
    assert [row[0].text for row in done] == ["bcdefghi", "efghijkl", "cdefghij"]
    assert all(row[0].finish == "length" for row in done)


def test_eos_ends_one_row_and_it_leaves_the_batch(reciter, byte_tokenizer):
    model = reciter([*b"abcdef", byte_tokenizer.eos, *b"ghijklmnop"])
    short, long = Engine(model, byte_tokenizer).generate(["abcd", "abcdefgh"], GREEDY)
    assert (short[0].text, short[0].finish, short[0].tokens) == ("ef", "eos", [*b"ef", byte_tokenizer.eos])
    assert (long[0].text, long[0].finish) == ("hijklmno", "length")
    assert model.widths == [2, 2, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("stop", "sampled"), [(("de",), b"cde"), (("zz", "def"), b"cdef"), (("cde", "d"), b"cd")])
def test_stop_string_across_tokens_is_cut_off(reciter, byte_tokenizer, stop, sampled):
    engine = Engine(reciter("abcdefghijkl"), byte_tokenizer)
    [[done]] = engine.generate(["ab"], Sampling(temperature=0, max_new_tokens=8, stop=stop))
    assert done.finish == "stop"
    assert done.text == "c"
    assert bytes(done.tokens) == sampled


def test_stop_string_is_not_sought_in_the_prompt(reciter, byte_tokenizer):
    [[done]] = Engine(reciter("abcabcabc"), byte_tokenizer).generate(["abcab"], Sampling(temperature=0, stop=("ab",)))
    assert done.text == "c"


def test_stream_never_shows_part_of_a_character_or_of_a_stop_string(reciter, byte_tokenizer):
    script = "añ→😀 end enough END more"
    pieces = list(Engine(reciter(script), byte_tokenizer).stream("a", Sampling(temperature=0, stop=("END",))))
    assert "".join(pieces) == "ñ→😀 end enough "
    assert {"ñ", "→", "😀"} < set(pieces)
    assert all("\ufffd" not in piece and "E" not in piece for piece in pieces)


def test_stream_releases_what_could_have_become_a_stop_string(reciter, byte_tokenizer):
    sampling = Sampling(temperature=0, max_new_tokens=4, stop=("deZ",))
    assert list(Engine(reciter("abcdefgh"), byte_tokenizer).stream("ab", sampling)) == ["c", "def"]


def test_a_character_cut_by_the_length_limit_is_marked(reciter, byte_tokenizer):
    sampling = Sampling(temperature=0, max_new_tokens=2)
    engine = Engine(reciter("a😀"), byte_tokenizer)
    [[done]] = engine.generate(["a"], sampling)
    assert done.text == "".join(engine.stream("a", sampling)) == "\ufffd"


def test_a_full_context_ends_with_length(reciter, byte_tokenizer):
    model = reciter("abcdefghijkl", context=6)
    [[short], [long]] = Engine(model, byte_tokenizer).generate(["a", "abcd"], GREEDY)
    assert (short.text, short.finish) == ("bcdef", "length")
    assert (long.text, long.finish) == ("ef", "length")


def test_logprobs_are_the_models_own(reciter, byte_tokenizer):
    model = reciter("abcd", peak=3.0)
    [[done]] = Engine(model, byte_tokenizer).generate(["a"], Sampling(temperature=0.5, top_k=3, max_new_tokens=20))
    table = model.table.detach()[:, :257].log_softmax(-1)
    expected = [float(table[(1 + place) % 4, token]) for place, token in enumerate(done.tokens)]
    assert done.logprobs == pytest.approx(expected, abs=1e-5)


def test_same_seed_same_text_in_any_batch(reciter, byte_tokenizer):
    engine = Engine(reciter("abcdefgh", peak=5.0), byte_tokenizer)
    sampling = Sampling(temperature=1.0, max_new_tokens=12, seed=3)
    alone = engine.generate(["abc"], sampling, samples=2)[0]
    crowd = engine.generate(["a", "abc", "abcdefgh", "b"], sampling, samples=2)[1]
    assert alone == crowd
    assert alone[0].tokens != alone[1].tokens
    assert engine.generate(["abc"], sampling.model_copy(update={"seed": 4}))[0][0].tokens != alone[0].tokens


def test_a_repeated_prompt_counts_on_as_further_samples(reciter, byte_tokenizer):
    engine = Engine(reciter("abcdefgh", peak=5.0), byte_tokenizer)
    sampling = Sampling(temperature=1.0, max_new_tokens=12)
    [[first], [second]] = engine.generate(["abc", "abc"], sampling)
    assert [first, second] == engine.generate(["abc"], sampling, samples=2)[0]


def test_small_memory_splits_the_batch_and_changes_nothing(reciter, byte_tokenizer):
    model = reciter("abcdefghijklmnop", peak=5.0)
    prompts = ["a", "abcdef", "abc", "abcd", "ab"]
    sampling = Sampling(temperature=1.0, max_new_tokens=10)
    whole = Engine(model, byte_tokenizer).generate(prompts, sampling)
    model.widths.clear()
    assert Engine(model, byte_tokenizer, batch_tokens=32).generate(prompts, sampling) == whole
    assert max(model.widths) == 2


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back(reciter, byte_tokenizer, training):
    model = reciter("abcd").train(training)
    engine = Engine(model, byte_tokenizer)
    engine.generate(["a"], GREEDY)
    assert model.training is training
    stream = engine.stream("a", GREEDY)
    next(stream)
    assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    stream.close()
    assert model.training is training


def test_errors_name_the_numbers(reciter, byte_tokenizer):
    engine = Engine(reciter("abcd", context=6), byte_tokenizer)
    with pytest.raises(ValueError, match="prompt is empty"):
        engine.generate([""], GREEDY)
    with pytest.raises(ValueError, match="6 tokens leaves no room in the model's context of 6"):
        engine.stream("abcdef", GREEDY)
    with pytest.raises(ValueError, match="at least 1"):
        engine.generate(["a"], GREEDY, samples=0)
    assert engine.generate([], GREEDY) == []
