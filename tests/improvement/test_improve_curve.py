"""The curve shows what counts after each round, of the method and of its controls, and what was taken back."""

import pytest
from PIL import Image

from eco.evaluation.bootstrap import interval
from eco.evaluation.pass_at_k import Checked
from eco.improvement.curve import curve, draw_curve
from eco.improvement.decisions import Decisions
from eco.improvement.measure import Measurement, Suite


def measured(*passed):
    suite = Suite(4, {f"t{at}": Checked(4, count) for at, count in enumerate(passed)})
    return Measurement({"synthesis:1": suite, "other": Suite(4, {"t": Checked(4, 4)})}, 0.5, 1.0, 2.0).as_json()


LOW, BAD, HIGH = measured(0, 1, 2, 1), measured(0, 0, 1, 0), measured(2, 4, 3, 3)


def row(number, before, after, promoted, control="none"):
    decision = {"promoted": promoted, "stop": False}
    return {"round": number, "control": control, **decision, "before": before, "after": after}


ROWS = [row(1, LOW, BAD, False), row(2, LOW, HIGH, True), row(3, HIGH, LOW, False)]


def write(folder, rows):
    folder.mkdir()
    for one in rows:
        Decisions(folder / "decisions.jsonl").append(one)
    return folder


def test_a_round_taken_back_leaves_the_curve_where_it_was():
    points = curve(ROWS)
    assert [(p.round, p.value, p.refused) for p in points] == [
        (0, 0.25, None), (1, 0.25, 0.0625), (2, 0.75, None), (3, 0.75, 0.25),
    ]  # fmt: skip
    assert (points[2].low, points[2].high) == interval([0.5, 1, 0.75, 0.75], seed=0)
    assert points[0].low < 0.25 < points[0].high


def pixels(path):
    """Colour -> how many pixels have it."""
    image = Image.open(path)
    assert image.size == (1200, 675)
    return {colour: count for count, colour in image.convert("RGB").getcolors(1 << 24)}


BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)


def test_the_picture_holds_the_method_and_its_controls(tmp_path):
    method = write(tmp_path / "improve", ROWS)
    control = write(tmp_path / "improve-random-reward", [row(1, LOW, BAD, False, "random-reward")])
    unfinished = tmp_path / "improve-frozen"
    path = tmp_path / "curve.png"
    assert draw_curve([method], path) == path
    alone = pixels(path)
    assert alone[BLUE] > 500 and ORANGE not in alone
    draw_curve([method, control, unfinished], path)
    assert pixels(path)[ORANGE] > 100
    other = write(tmp_path / "improve-seed-1", ROWS[:2])
    draw_curve([method, other], tmp_path / "seeds.png")
    assert pixels(tmp_path / "seeds.png")[BLUE] > alone[BLUE]


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match="no round of the loop has been decided yet"):
        draw_curve([tmp_path], tmp_path / "curve.png")
