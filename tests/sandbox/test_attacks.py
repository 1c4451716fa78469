"""Attacks: each can succeed, none does at `full`; and `eco sandbox test` tells the truth about it."""

import json
import os
from pathlib import Path

import pytest

from eco.commands import sandbox as command
from eco.machine import prepare
from eco.sandbox import Call, Sandbox
from eco.sandbox.attacks.bait import Bait
from eco.sandbox.attacks.contract import Assault, Attack
from eco.sandbox.attacks.suite import ATTACKS, assaults, controls
from eco.sandbox.levels import missing

SLOW = {"infinite loop", "ignored signals", "loop in C", "stop itself", "loop while loading", "thread left behind"}
"""Attacks that last until they are stopped: seconds each, where nobody does."""

full = pytest.mark.skipif(missing("full") is not None, reason=f"no level full: {missing('full')}")
no_userns = pytest.mark.skipif(missing("no-userns") is not None, reason=f"no level no-userns: {missing('no-userns')}")

LET_THROUGH_WITHOUT_NAMESPACES = {"ask whether a file exists", "many threads"}
"""What docs/sandbox.md says of `no-userns`: Landlock does not hide that a path exists, and the kernel counts threads
for all processes of a user together."""


def reached(found: list[Assault]) -> dict[str, str]:
    return {one.attack: one.evidence for one in found if one.succeeded}


def test_names_are_unique_and_there_are_enough() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 35


def expected_to_succeed(attacks: list[Attack]) -> set[str]:
    return {attack.name for attack in attacks if not attack.uncontrolled}


def test_attacks_succeed_where_nothing_protects() -> None:
    some = [attack for attack in ATTACKS if attack.name not in SLOW and "memory" not in attack.name][::4]
    assert expected_to_succeed(some) <= reached(list(controls(some))).keys()


@pytest.mark.slow
def test_every_attack_succeeds_where_nothing_protects() -> None:
    assert expected_to_succeed(ATTACKS) <= reached(list(controls())).keys()


@full
def test_no_attack_succeeds_at_full() -> None:
    found = list(assaults("full"))
    assert [one.attack for one in found] == [attack.name for attack in ATTACKS]
    assert {one.level for one in found} == {"full"}
    assert reached(found) == {}


@no_userns
def test_what_gets_through_without_namespaces_is_what_the_docs_say() -> None:
    attacks = [attack for attack in ATTACKS if attack.name not in SLOW]
    assert reached(list(assaults("no-userns", attacks))).keys() == LET_THROUGH_WITHOUT_NAMESPACES


def test_the_tools_of_attacks_work_inside() -> None:
    """An attack that fails since a module is not there would say nothing about the walls."""
    program = """
import array, ast, asyncio, atexit, ctypes, fcntl, gc, glob, json, mmap, os, re, resource, signal, socket, struct, sys
import tempfile, threading, time
def attack():
    open("own", "w").write("own file")
    near, far = socket.socketpair()
    near.send(b"x")
    thread = threading.Thread(target=os.getpid)
    thread.start()
    thread.join()
    return [ctypes.CDLL(None).abs(-3), open("own").read(), far.recv(1), thread.is_alive()]
"""
    with Sandbox("weak" if missing("full") else "full", workers=1) as sandbox:
        (outcome,) = sandbox.run(program, [Call("attack")])
    assert (outcome.kind, outcome.value) == ("pass", [3, "own file", b"x", False]), outcome


def test_bait_sees_what_changed_and_leaves_nothing() -> None:
    prepare()  # a trainer's heap keeps what was freed, and takes in what an attack brings without growing
    freed = bytearray(b"x") * (300 << 20)
    del freed
    with Bait() as bait:
        folder = bait.folders[1]
        assert bait.damage(60) == []
        (folder / "changeable.txt").write_text("changed")
        os.kill(bait.aim["victim"], 9)
        (Path("/tmp") / bait.aim["mark"]).write_text("left")
        assert len(bytearray(b"x") * (100 << 20)) and len(bait.damage(60)) == 4
        bait.set_out()
        assert bait.damage(60) == []
        assert os.environ["ECO_BAIT"] == bait.secret
    assert "ECO_BAIT" not in os.environ
    assert not any(folder.exists() for folder in bait.folders)


HARMLESS = Attack("harmless", "does nothing", "def attack(bait): return None")
SUCCESS = Attack("success", "says that it reached something", "def attack(bait): return 'reached [the moon]'")


@pytest.mark.parametrize(("attack", "status"), [(HARMLESS, 0), (SUCCESS, 1)])
def test_the_exit_status_tells_whether_an_attack_got_through(
    attack: Attack, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ATTACKS", [attack])
    monkeypatch.setattr(command, "assaults", lambda level: assaults(level, [attack]))
    assert command.run(["test", "--level", "weak"]) == status
    printed = capsys.readouterr().out
    assert f"weak: {status} of 1 attacks got through" in printed
    assert ("reached [the moon]" in printed) == bool(status)
    assert command.run(["test", "--level", "weak", "--json"]) == status
    kept = json.loads(capsys.readouterr().out)
    assert kept["let_through"] == {"weak": status}
    assert kept["results"]["weak"][0]["level"] == "weak"


def test_levels_are_listed_with_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "missing", lambda level: "no [such] thing" if level == "full" else None)
    assert command.run([]) == 0
    printed = capsys.readouterr().out
    assert "no [such] thing" in printed and "weak" in printed
    assert command.run(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["full"] == {"available": False, "missing": "no [such] thing"}
    assert command.run(["--level", "full"]) == 1
