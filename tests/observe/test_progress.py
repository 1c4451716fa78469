import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from eco.observe import progress as progress_module
from eco.observe.progress import Progress


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


def text_of(output):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.file.getvalue())


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_terminal_shows_a_bar_with_all_figures():
    output = console(terminal=True)
    with Progress(200, console=output) as progress:
        progress.update({"step": 10, "loss": 4.0, "val_bits_per_byte": 1.987})
        progress.update({"step": 50, "loss": 4.0, "loss_ema": 3.25, "tokens_per_s": 8123.4})
    last = text_of(output).rstrip().splitlines()[-1]
    assert re.search(r" 50/200 .*━.* loss 3\.250  held-out 1\.987 bits/byte  8,123 tokens/s  \d+:\d\d left", last)


def test_without_a_terminal_there_are_plain_lines_some_seconds_apart(clock):
    output = console(terminal=False)
    with Progress(100, console=output) as progress:
        for step in range(1, 101):
            progress.update({"step": step, "loss": 2.0})
            clock[0] += 1.0
    lines = text_of(output).splitlines()
    assert len(lines) == 11
    assert lines[0] == "step 1/100  loss 2.000"
    assert lines[1] == "step 11/100  loss 2.000  1:29 left"
    assert lines[-1] == "step 100/100  loss 2.000"
    assert "\x1b" not in output.file.getvalue()


def test_the_time_left_is_never_more_than_the_budget_of_minutes_leaves(clock):
    output = console(terminal=False)
    progress = Progress(1000, console=output)
    for step in (1, 11, 21):
        progress.update({"step": step, "loss": 2.0}, most_left=100 - step)
        clock[0] += 10.0
    assert [line.split("  ")[-1] for line in text_of(output).splitlines()[1:]] == ["1:29 left", "1:19 left"]


def test_the_time_left_of_a_resumed_run_counts_only_its_own_steps(clock):
    output = console(terminal=False)
    progress = Progress(1000, console=output)
    progress.update({"step": 900, "loss": 2.0})
    clock[0] += 100
    progress.update({"step": 910, "loss": 2.0})
    assert text_of(output).splitlines()[-1].endswith("15:00 left")


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_prints_nothing(terminal):
    output = console(terminal)
    with Progress(10, enabled=False, console=output) as progress:
        progress.update({"step": 1, "loss": 2.0})
        progress.note("nothing")
    assert output.file.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_notes_are_printed_as_they_are(terminal):
    output = console(terminal)
    long = "pip install 'eco-lm[track]' " + "x" * 200
    with Progress(10, console=output) as progress:
        progress.note(long)
    assert long in text_of(output)


def test_a_row_of_a_skipped_step_has_no_loss_and_is_shown_all_the_same():
    output = console(terminal=False)
    Progress(10, console=output).update({"step": 10, "loss": None})
    assert text_of(output) == "step 10/10  \n"
