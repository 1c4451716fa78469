"""Recursion at test time: every step is made and read, nothing is learnt."""

import torch
from wanderer import VOCAB, Wanderer, plain

TOKENS = torch.randint(VOCAB, (5, 4), generator=torch.Generator().manual_seed(1))
PUZZLE = torch.tensor([0, 1, 2, 0, 1])


def test_the_steps_are_those_of_the_plain_loop():
    model = Wanderer()
    question = model.encode(TOKENS, PUZZLE)
    latent = model.start(question)
    for step in plain(model, TOKENS, PUZZLE, steps=4):
        latent = model.improve(question, latent)
        logits, halting = model.read(latent)
        assert torch.equal(step.answers, logits.argmax(-1)) and step.answers.dtype == torch.int64
        torch.testing.assert_close(step.confidence, 1 / (1 + (-halting.double()).exp()), rtol=1e-12, atol=0)
    assert model.improved == 8


def test_no_step_is_left_out_where_the_model_is_sure():
    confidences = torch.stack([step.confidence for step in plain(Wanderer(), TOKENS, PUZZLE, steps=30)])
    first_sure = (confidences > 0.5).int().argmax(0)
    assert len(confidences) == 30 and (first_sure < 29).all()


def test_of_two_very_sure_answers_the_surer_can_be_told():
    confidence = next(iter(plain(Sure(), TOKENS[:3], PUZZLE[:3], steps=1))).confidence
    assert confidence[0] < confidence[1] < confidence[2] < 1


def test_no_gradient_is_kept_and_the_callers_mode_stays():
    steps = plain(Wanderer(), TOKENS, PUZZLE, steps=2)
    for step in steps:
        assert torch.is_grad_enabled()
        assert not step.confidence.requires_grad


class Sure(Wanderer):
    def read(self, latent):
        return super().read(latent)[0], torch.tensor([20.0, 21.0, 24.0])
