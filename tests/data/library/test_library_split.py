"""What is held out of a library: the share of each document and category, and no word of it in training."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from eco.data.corpus import scan
from eco.data.library.build import build
from eco.data.library.folder import Library
from eco.data.library.marks import units, verses_of
from eco.data.prepare import Prepared, TextConfig, prepare
from eco.data.stream import IGNORE
from eco.data.tokenizer import TokenizerConfig


def prepared(folder: Path, library: Library, share: float) -> Prepared:
    data = TextConfig(paths=(f"library:{library.folder}",), held_out=share)
    return prepare(data, TokenizerConfig(vocab_size=400, sample_bytes=100_000), folder)


def trained_windows(data: Prepared, window: int) -> list[str]:
    """What each training window of one epoch shows, inputs and targets."""
    stream = data.stream(window)
    batch = stream.batch(0, len(stream))
    rows = zip(batch["tokens"].tolist(), batch["targets"].tolist(), strict=True)
    return [
        data.tokenizer.decode([tokens[0], *(target for target in targets if target != IGNORE)])
        for tokens, targets in rows
    ]


def sides(library: Library, share: float) -> tuple[list[str], list[str]]:
    """The units of the library that are trained on and those that are held out."""
    corpus = scan((f"library:{library.folder}",), None, share, set())
    held_out = {text for text, held in corpus.documents() if held}
    all_units = [unit for item in library.items for unit in units(library.read(item).text)]
    return [unit for unit in all_units if unit not in held_out], [unit for unit in all_units if unit in held_out]


def test_no_held_out_chapter_is_trained_on(texts: Path, tmp_path: Path) -> None:
    library, _ = build(tmp_path / "library", "files", str(texts))
    data = prepared(tmp_path / "cache", library, 0.2)
    training, held_out = sides(library, 0.2)
    (whole,) = trained_windows(data, data.stream(1).targets)
    assert whole == "".join(training), "the training chapters, in their order, and nothing else"
    assert all(shown in whole for window in (16, 100) for shown in trained_windows(data, window))
    verses = [verse for unit in held_out for verse in verses_of(unit)]
    assert len(held_out) > 5 and len(verses) > 50
    assert not any(verse.text in whole for verse in verses)


def test_the_facts_stand_beside_the_documents_of_the_store(texts: Path, tmp_path: Path) -> None:
    library, _ = build(tmp_path / "library", "files", str(texts))
    data = prepared(tmp_path / "cache", library, 0.2)
    facts, store = data.facts[0], data.stores[0]
    assert facts is not None
    for part, table in ((store.training, facts.training), (store.held_out, facts.held_out)):
        for index, (start, end) in enumerate(pairwise(part.documents.tolist())):
            text = data.tokenizer.decode(part.tokens[start : end - 1].tolist())
            item = library.items[int(table["document"][index])]
            chapter = round(table["place"][index] * item.units) + 1
            assert f"<chapter>{item.title} {chapter}" in text.split("<verse>")[0]


def shares(library: Path, share: float) -> tuple[float, dict[float, float]]:
    """Bytes held out of the whole, and of each category."""
    corpus = scan((f"library:{library}",), None, share, set())
    assert corpus.facts is not None
    categories = np.array([facts["category"] for facts in corpus.facts])
    held, sizes = corpus.held_out, corpus.sizes
    inside = {category: categories == category for category in sorted(set(categories.tolist()))}
    return float(sizes[held].sum() / sizes.sum()), {
        category: float(sizes[held & mask].sum() / sizes[mask].sum()) for category, mask in inside.items()
    }


def test_every_category_gives_its_share(texts: Path, tmp_path: Path) -> None:
    library, _ = build(tmp_path / "library", "files", str(texts))
    total, by_category = shares(library.folder, 0.25)
    assert abs(total - 0.25) < 0.02
    assert all(abs(share - 0.25) < 0.1 for share in by_category.values())


def test_the_bible_is_held_out_in_proportion_and_unseen(kjv: Path, tmp_path: Path) -> None:
    library, _ = build(tmp_path / "library", "kjv", str(kjv))
    total, by_category = shares(library.folder, 0.05)
    assert abs(total - 0.05) < 0.001
    assert len(by_category) == 8 and all(abs(share - 0.05) < 0.015 for share in by_category.values())
    data = prepared(tmp_path / "cache", library, 0.05)
    training, held_out = sides(library, 0.05)
    (seen,) = trained_windows(data, data.stream(1).targets)
    assert seen == "".join(training)
    trained, unseen = [*verses_of(seen)], [verse for unit in held_out for verse in verses_of(unit)]
    assert len(trained) + len(unseen) == 31102 and len(unseen) > 1000
    assert not {(v.book, v.chapter, v.verse) for v in trained} & {(v.book, v.chapter, v.verse) for v in unseen}
    # What the text itself says twice, such as "And the LORD spake unto Moses, saying,", cannot be unseen.
    texts = {verse.text for verse in trained}
    assert sum(verse.text in texts for verse in unseen) < 0.01 * len(unseen)
