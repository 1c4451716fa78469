"""Compares trained language models on the text that was held out from all of them: table, JSON and picture."""

import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from eco.data.prepare import Prepared
from eco.evaluation.documents import DocumentLosses, document_losses, texts
from eco.evaluation.ngram import KneserNey, ngram_loss
from eco.evaluation.quality import CONTINUATION, PROMPT, Judge, generation_quality, passages, vocabulary
from eco.evaluation.recall import questions, verse_recall
from eco.files import replacing, write_json
from eco.inference.sampling import Sampling
from eco.jobs.language import data_of_run
from eco.jobs.load import Trained, load_language
from eco.observe.comparison import draw_comparison
from eco.observe.metrics import read_metrics
from eco.observe.run import existing_run
from eco.training.precision import Precision

PASSAGES = 40
"""Held-out passages that each model continues, for the quality of what it writes."""

DECODED = 64
"""Tokens of the continuation by which the speed of decoding is measured."""

COLUMNS = {
    "parameters": "parameters",
    "bits_per_byte": "held-out bits per byte",
    "recall_exact": "verses of training recalled exactly",
    "recall_chrf": "chrF of these verses",
    "recall_chrf_held_out": "chrF of held-out verses",
    "repeated_4": "repeated 4-grams in what it writes",
    "distinct_2": "distinct bigrams",
    "written_bits_per_byte": "its bits per byte by the 5-gram model",
    "training_tokens_per_s": "training tokens/s",
    "decoding_tokens_per_s": "decoding tokens/s",
    "memory_gb": "training memory, GB",
}
"""Figure -> its line in the table."""


def compare(
    runs: Sequence[str | Path], folder: str | Path, *, checkpoint: str | int = "best", verses: int = 40, seed: int = 0
) -> dict[str, Any]:
    """The figures of each run's model, how far each is from the first on the same documents, and a 5-gram baseline.

    Written to `folder` too: comparison.json, comparison.md, comparison.png. verses: how many are asked for by their
    reference; seed: which.

    Raises:
        ValueError: fewer than two runs, one that cannot be loaded, or runs that held out other text.
    """
    paths = [existing_run(run).path.resolve() for run in runs]
    if len(paths) < 2 or len({*paths}) < len(paths):
        raise ValueError("comparing takes two different runs or more: eco compare RUN RUN")
    names = _names(paths)
    trained = [load_language(path, checkpoint) for path in paths]
    data = [data_of_run(one.recipe, existing_run(one.path)) for one in trained]
    _check_same_text(names, data)
    judge = Judge(_ngrams(data[0]), data[0].tokenizer)
    figures, losses = {}, []
    for name, one, prepared in zip(names, trained, data, strict=True):
        losses.append(_losses(one, prepared))
        figures[name] = _figures(one, prepared, losses[-1], judge, verses, seed)
    report = {
        "models": figures,
        "differences": {name: _difference(of, losses[0], seed) for name, of in zip(names[1:], losses[1:], strict=True)},
        "reference": names[0],
        "kneser_ney_5gram": {
            name: ngram_loss(prepared.stores[0], prepared.tokenizer)["val_bits_per_byte"]
            for name, prepared in zip(names, data, strict=True)
        },
    }
    _write(report, Path(folder))
    return report


def lines(report: Mapping[str, Any]) -> list[list[str]]:
    """The table: a heading, then a line per figure."""
    models: dict[str, dict[str, Any]] = report["models"]
    table = [["", *models, "5-gram Kneser-Ney"]]
    for key, label in COLUMNS.items():
        baseline = f"{min(report['kneser_ney_5gram'].values()):.4f}" if key == "bits_per_byte" else ""
        table.append([label, *(_shown(figures[key]) for figures in models.values()), baseline])
    return table


def verdicts(report: Mapping[str, Any]) -> list[str]:
    """Which model is better on held-out text, and how sure that is."""
    told = []
    for name, found in report["differences"].items():
        low, high = found["interval"]
        word = "better than" if high < 0 else "worse than" if low > 0 else "not told apart from"
        told.append(
            f"{name} is {word} {report['reference']}: {found['bits_per_byte']:+.4f} bits per byte, "
            f"95 % interval {low:+.4f} to {high:+.4f} over {found['documents']} documents"
        )
    return told


def _figures(
    trained: Trained, data: Prepared, losses: DocumentLosses, judge: Judge, verses: int, seed: int
) -> dict[str, Any]:
    store, rows = data.stores[0], read_metrics(existing_run(trained.path).metrics)
    seen, unseen = texts(store.training, data.tokenizer), texts(store.held_out, data.tokenizer)
    recall = {name: _recall(trained, of, verses, seed) for name, of in (("training", seen), ("held_out", unseen))}
    quality = _quality(trained, unseen, vocabulary(seen), judge, seed)
    speeds = [row["tokens_per_s"] for row in rows if row.get("tokens_per_s")]
    return {
        "run": str(trained.path),
        "step": trained.step,
        "parameters": sum(trained.model.parameter_table().values()),
        "bits_per_byte": losses.bits_per_byte,
        "recall_exact": recall["training"].get("exact"),
        "recall_chrf": recall["training"].get("chrf"),
        "recall_chrf_held_out": recall["held_out"].get("chrf"),
        "repeated_4": quality["generated"].get("repeated_4"),
        "distinct_2": quality["generated"].get("distinct_2"),
        "written_bits_per_byte": quality["generated"].get("bits_per_byte"),
        "training_tokens_per_s": statistics.median(speeds) if speeds else None,
        "decoding_tokens_per_s": _decoding_speed(trained),
        "memory_gb": max((row["process_rss_gb"] for row in rows if "process_rss_gb" in row), default=None),
        "recall": recall,
        "quality": quality,
    }


def _recall(trained: Trained, documents: Sequence[str], verses: int, seed: int) -> dict[str, float]:
    """Empty where the documents have no verses to ask for."""
    if sum(len(questions(text)) for text in documents) < 2:
        return {}
    return verse_recall(trained.engine, documents, verses, seed)


def _quality(
    trained: Trained, documents: Sequence[str], known: Collection[str], judge: Judge, seed: int
) -> dict[str, dict[str, float]]:
    """Nothing of either where no document is as long as a passage."""
    if all(len(text.split()) < PROMPT + CONTINUATION for text in documents):
        return {"generated": {}, "real": {}}
    drawn = Sampling(temperature=1.0, seed=seed)
    return generation_quality(trained.engine, passages(documents, PASSAGES, seed), judge, known, drawn)


def _ngrams(data: Prepared) -> KneserNey:
    return KneserNey.fit(data.stores[0].training.tokens, data.tokenizer.vocab_size, order=5)


def _losses(trained: Trained, data: Prepared) -> DocumentLosses:
    precision = Precision(trained.recipe.train.precision, next(trained.model.parameters()).device)
    window = trained.model.config.context
    return document_losses(trained.model, data.stores[0].held_out, data.tokenizer, window, precision)


def _check_same_text(names: Sequence[str], data: Sequence[Prepared]) -> None:
    if any(len(prepared.stores) > 1 for prepared in data):
        raise ValueError("what is compared is trained on one corpus each; a run with data.mix held out of several")
    first, *others = (texts(prepared.stores[0].held_out, prepared.tokenizer) for prepared in data)
    for name, held_out in zip(names[1:], others, strict=True):
        if held_out != first:
            raise ValueError(
                f"{names[0]} and {name} held out different text, so that their figures cannot be compared; train both "
                "with the same data.paths and data.held_out"
            )


def _difference(losses: DocumentLosses, reference: DocumentLosses, seed: int) -> dict[str, Any]:
    mean, interval = losses.over(reference, seed)
    return {"bits_per_byte": mean, "interval": [*interval], "documents": len(losses.bits)}


def _decoding_speed(trained: Trained) -> float:
    """Tokens a second of one continuation, without the first, which pays for what is set up once."""
    trained.generate("In the beginning", max_new_tokens=2)
    began = time.perf_counter()
    sampling = Sampling(max_new_tokens=DECODED, temperature=1.0)
    made = trained.engine.generate(["In the beginning"], sampling)[0][0]
    return len(made.tokens) / (time.perf_counter() - began)


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    for parts in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len({*names}) == len(names):
            return names
    return [*map(str, paths)]


def _write(report: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = lines(report)
    rows = [" | ".join(row) for row in [table[0], ["---"] * len(table[0]), *table[1:]]]
    with replacing(folder / "comparison.md") as file:
        file.write("\n".join([*(f"| {row} |" for row in rows), "", *verdicts(report), ""]))
    draw_comparison(report["models"], report["kneser_ney_5gram"], folder / "comparison.png")
    write_json(folder / "comparison.json", report)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.4f}"
