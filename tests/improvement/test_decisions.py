"""The file of decisions: on the disk at once, strict, and whole again after a kill at any byte."""

import json
import math
import os

import numpy as np
import pytest
import torch

from eco.improvement.decisions import Decisions, read_decisions


def row(number, **more):
    return {"round": number, "control": "none", "promoted": number % 2 == 0, "reason": "größer\nals", **more}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "decisions.jsonl"


def test_what_is_appended_is_read_one_line_each(path):
    decisions = Decisions(path)
    assert decisions.read() == []
    for number in range(4):
        decisions.append(row(number, checks=[{"name": "gain", "passed": True}]))
    assert decisions.read() == [row(number, checks=[{"name": "gain", "passed": True}]) for number in range(4)]
    lines = path.read_bytes().split(b"\n")
    assert len(lines) == 5 and lines[-1] == b"" and json.loads(lines[2]) == decisions.read()[2]


def test_a_line_is_on_the_disk_before_append_returns(path, monkeypatch):
    synced = []
    decisions = Decisions(path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.read_bytes()))
    decisions.append(row(1))
    assert synced == [path.read_bytes()] and synced[0].endswith(b"}\n")


def test_any_figure_is_strict_json(path):
    figures = {"a": math.nan, "b": [np.float32(0.5), (math.inf, True)], "c": torch.tensor(2), "d": {"e": None}}
    Decisions(path).append(row(1, after=figures))
    refused = pytest.fail
    (read,) = [json.loads(line, parse_constant=refused) for line in path.read_text().splitlines()]
    assert read["after"] == {"a": None, "b": [0.5, [None, True]], "c": 2, "d": {"e": None}}


def test_a_kill_at_any_byte_of_a_line_loses_at_most_that_line(path):
    decisions = Decisions(path)
    for number in (1, 2):
        decisions.append(row(number))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        path.write_bytes(whole[:size])
        assert read_decisions(path) == [row(1)]
        again = Decisions(path)
        assert path.read_bytes() == whole[:first], "a torn line is gone before anything is appended"
        again.append(row(2))
        assert path.read_bytes() == whole


def test_rounds_that_are_done_again_are_dropped(path):
    decisions = Decisions(path)
    decisions.truncate_after(3)
    assert not path.exists()
    for number in range(1, 6):
        decisions.append(row(number))
    whole = path.read_bytes()
    decisions.truncate_after(5)
    assert path.read_bytes() == whole
    decisions.truncate_after(3)
    assert [decision["round"] for decision in decisions.read()] == [1, 2, 3]
    for number in (4, 5):
        decisions.append(row(number))
    assert path.read_bytes() == whole, "as if it had never been interrupted"
    decisions.truncate_after(-1)
    assert decisions.read() == []


def test_a_kill_while_dropping_leaves_the_file_as_it_was(path, monkeypatch):
    decisions = Decisions(path)
    for number in range(1, 4):
        decisions.append(row(number))
    whole = path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        decisions.truncate_after(1)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"{", b"null", b"[1]", b'{"round": "two"}', b'{"control": "none"}', b"", b"\xff"])
def test_damage_before_the_last_line_is_named_and_not_passed_over(path, damage):
    Decisions(path).append(row(1))
    path.write_bytes(damage + b"\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"decisions\.jsonl, line 1 is damaged"):
        Decisions(path).read()


def test_a_decision_without_its_round_is_our_own_mistake(path):
    with pytest.raises(AssertionError, match="round"):
        Decisions(path).append({"control": "none"})
