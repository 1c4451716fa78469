"""Recipes that train in a second, and the reader of what they wrote."""

import json
from pathlib import Path

TINY = """
model: {family: decoder, width: 32, layers: 2, heads: 2, context: 32}
tokenizer: {vocab_size: 320}
optimizer: {name: muon, lr: 0.01}
train: {steps: 12, batch_size: 4, warmup: 3, eval_every: 5, eval_windows: 4, precision: fp32}
checkpoint: {every: 4, seconds: 0}
sampling: {max_new_tokens: 8}
prompts: ["def "]
"""

SMALL_PUZZLES = """
model: {family: trm, width: 32, heads: 2, prefix: 1, cycles: 2, inner_cycles: 2, max_steps: 4}
data: {puzzle: sudoku, size: 4, clues: 6, puzzles: 40, held_out_puzzles: 10}
optimizer: {name: adam_atan2, lr: 0.001}
train: {steps: 20, batch_size: 16, eval_every: 20, eval_windows: 10, precision: fp32}
checkpoint: {every: 20, seconds: 0}
"""


def read_rows(run: Path) -> list[dict]:
    """The rows of a run's metrics.jsonl, parsed strictly."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
