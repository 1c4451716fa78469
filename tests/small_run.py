"""A recipe that trains in a second, and the reader of what it wrote."""

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


def read_rows(run: Path) -> list[dict]:
    """The rows of a run's metrics.jsonl, parsed strictly."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
