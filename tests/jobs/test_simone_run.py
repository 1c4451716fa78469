"""A governed decoder in training, with all its parts: evidence of each, an exact resume, text beyond its segments."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_library import small_library
from small_run import read_rows

import eco as package
from eco.inference import Sampling

EVERYTHING = """
model:
  {family: simone, width: 32, layers: 2, heads: 2, context: 64, dropout: 0.1, attention_dropout: 0.1, policy_rank: 3,
   forgetting: true, memory_slots: 3, segment: 32, control: true, routed_experts: 4, concept_weight: 0.1,
   continuation_weight: 0.05, reference_weight: 0.1, genre_weight: 0.05, recall_weight: 0.1, policy_weight: 0.001,
   memory_weight: 0.001, energy_weight: 0.0001, books: 3, genres: 2}
tokenizer: {layout: structural, vocab_size: 330}
optimizer: {name: muon, lr: 0.01}
train: {steps: 8, batch_size: 2, accumulation: 2, warmup: 3, auxiliary_warmup: 0.8, eval_every: 4, eval_windows: 4,
        precision: fp32, ema_decay: 0.9}
checkpoint: {every: 4, seconds: 0}
sampling: {max_new_tokens: 8}
prompts: ["and the"]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("everything")
    recipe = folder / "everything.yaml"
    library = small_library(folder)
    data = f"data: {{paths: ['library:{library}'], held_out: 0.2, weighting: metadata}}\n"
    recipe.write_text(EVERYTHING + data)
    return package.train(str(recipe), {"output_dir": str(folder / "run")}).run


def test_every_part_counts_its_steps_with_evidence(run: Path) -> None:
    last = read_rows(run)[-1]
    for name in ("policy", "forgetting", "memory_slots", "control", "moe", "auxiliary"):
        assert last[f"feature_{name}_effective_calls"] == 8 and last[f"feature_{name}_evidence"] > 0, name


def test_it_goes_on_bit_identically_from_a_checkpoint(run: Path, tmp_path: Path) -> None:
    """In the middle of the auxiliary losses' warm-in."""
    again = shutil.copytree(run, tmp_path / "again")
    for later in sorted((again / "checkpoints").glob("step_*"))[1:]:
        shutil.rmtree(later)
    package.resume(again)
    rows, resumed = read_rows(run), read_rows(again)
    assert resumed[-1]["checkpoint_resume_step"] == 4 and len(rows) == len(resumed) == 9
    told = ("loss", "val_", "lm_", "policy", "memory", "feature_", "grad_norm")
    for row, other in zip(rows[1:], resumed[1:], strict=True):
        assert [key for key in row if key.startswith(told) and row[key] != other[key]] == []
    for file in (run / "checkpoints" / "step_00000008").glob("*.safetensors"):
        tensors, others = load_file(file), load_file(again / "checkpoints" / "step_00000008" / file.name)
        assert [name for name in tensors if not tensors[name].equal(others[name])] == [], file.name


def test_it_writes_over_the_ends_of_segments_up_to_its_context(run: Path) -> None:
    trained = package.load(run)
    prompts = ["and the king", "behold", "spake unto all the people"]  # of different lengths
    together = trained.engine.generate(prompts, Sampling(temperature=0, max_new_tokens=500))
    for prompt, [completion] in zip(prompts, together, strict=True):
        assert completion.finish == "eos" or len(completion.prompt) + len(completion.tokens) == 64
        assert completion.text == trained.generate(prompt, temperature=0.0, max_new_tokens=500)
