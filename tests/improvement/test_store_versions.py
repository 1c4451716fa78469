"""Versions: immutable, whole or absent, moved by a pointer alone; every damage is found and named."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import facts, row

from eco.improvement.store.row import Row
from eco.improvement.store.sealed import Damaged
from eco.improvement.store.versions import EMPTY, VerifiedStore


@pytest.fixture
def store(tmp_path):
    """Three versions, of which the second counts; the third was rejected."""
    store = VerifiedStore(tmp_path / "store")
    store.promote(store.append([row(1), row(2)], facts(1)))
    store.promote(store.append([row(3)], facts(2, removed=[row(1).id])))
    store.record_outcome("v0002", {"before": 0.1, "after": 0.3})
    store.append([row(4)], facts(3))
    return store


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_version_is_its_chain_less_what_was_removed(store):
    assert store.head == "v0002"
    assert store.rows() == [row(2), row(3)]
    assert store.rows("v0001") == [row(1), row(2)]
    assert store.rows("v0003") == [row(2), row(3), row(4)]
    assert store.rows(EMPTY) == []
    assert store.own_rows("v0002") == [row(3)]
    assert store.manifest("v0003").parent == "v0002"
    assert store.outcome("v0002") == {"before": 0.1, "after": 0.3}
    assert store.outcome("v0003") is None
    assert store.verify() == []


def test_rollback_moves_the_pointer_and_nothing_else(store):
    before = files_of(store.folder)
    assert store.rollback() == "v0001"
    assert store.rows() == [row(1), row(2)]
    changed = {name for name, data in files_of(store.folder).items() if before.get(name) != data}
    assert changed == {"HEAD.json"} and before.keys() == files_of(store.folder).keys()
    store.rollback("v0003")
    assert store.rows()[-1] == row(4)
    store.rollback(EMPTY)
    assert store.rows() == []
    with pytest.raises(ValueError, match="nothing to roll back"):
        store.rollback()
    with pytest.raises(ValueError, match=r"no version 'v0009'; there is: v0000, v0001, v0002, v0003"):
        store.rollback("v0009")


def test_after_a_rollback_numbers_go_on_and_the_parent_is_what_counts(store):
    store.rollback("v0001")
    assert store.append([row(5)], facts(4)) == "v0004"
    assert store.manifest("v0004").parent == "v0001"
    assert store.rows("v0004") == [row(1), row(2), row(5)]
    assert store.rows("v0003") == [row(2), row(3), row(4)], "the branch that was left stays readable"


def test_an_old_version_never_changes(store):
    before = files_of(store.folder)
    store.promote(store.append([row(9)], facts(4)))
    after = files_of(store.folder)
    assert {name: after[name] for name in before if name != "HEAD.json"} == {
        name: data for name, data in before.items() if name != "HEAD.json"
    }
    with pytest.raises(AssertionError):
        store.record_outcome("v0002", {})


def test_equal_rows_and_facts_give_equal_bytes(tmp_path):
    stores = [VerifiedStore(tmp_path / name) for name in "ab"]
    for store in stores:
        store.append([row(1), row(2)], facts())
    one, two = (files_of(store.folder) for store in stores)
    assert one["v0001/rows.jsonl"] == two["v0001/rows.jsonl"]
    manifests = [json.loads(files["v0001/manifest.json"]) for files in (one, two)]
    for manifest in manifests:
        del manifest["created"], manifest["seal"]
    assert manifests[0] == manifests[1]


def test_discarding_a_killed_round_restores_every_byte(store):
    before = files_of(store.folder)
    store.promote(store.append([row(7)], facts(4)))
    store.record_outcome("v0004", {})
    store.promote(store.append([row(8)], facts(5)))
    store.discard_after(3)
    store.rollback("v0002")
    assert files_of(store.folder) == before
    store.discard_after(1)
    assert (store.head, store.versions()) == ("v0001", ["v0001"])
    store.discard_after(0)
    assert (store.head, store.rows()) == (EMPTY, [])
    assert store.append([row(1)], facts(1)) == "v0001", "a round that is done again gets the number it had"


def _killed_at(store: VerifiedStore, work, at: int) -> bool:
    """Runs `work` in a fork that is killed before its `at`-th change of the disk; False if there are fewer."""
    child = os.fork()
    if child == 0:
        left = [at]

        def deadly(function):
            def call(*words, **options):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*words, **options)

            return call

        for name in ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir", "write"):
            setattr(os, name, deadly(getattr(os, name)))
        try:
            work(store)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _append_and_promote(store: VerifiedStore) -> None:
    store.promote(store.append([row(5)], facts(4)))
    store.record_outcome(store.head, {})


@pytest.mark.parametrize("work", [_append_and_promote, VerifiedStore.rollback, lambda store: store.discard_after(1)])
def test_killed_at_any_moment_the_store_is_the_old_or_the_new_one(store, tmp_path, work):
    old = store.rows()
    copy = tmp_path / "copy"
    shutil.copytree(store.folder, copy)
    work(VerifiedStore(copy))
    new = VerifiedStore(copy).rows()
    assert new != old
    for at in range(1000):
        shutil.rmtree(copy)
        shutil.copytree(store.folder, copy)
        killed = _killed_at(VerifiedStore(copy), work, at)
        left = VerifiedStore(copy)
        assert left.rows() in (old, new), at
        assert left.verify() == [], at
        if not killed:
            break
        left.discard_after(3)
        assert not [path for path in copy.rglob("*") if path.name.startswith(".")], "what was left is cleaned away"
        left.append([row(6)], facts(4))
        assert left.verify() == []
    assert at >= 3 and left.rows() == new


@pytest.mark.parametrize("name", ["rename", "replace", "fsync"])
def test_an_error_of_the_disk_leaves_nothing_half_written(store, monkeypatch, name):
    before = files_of(store.folder)
    real = getattr(os, name)
    for at in range(3):
        left = [at]

        def full(*words, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            return real(*words)

        monkeypatch.setattr(os, name, full)
        try:
            version = store.append([row(5)], facts(4))
        except OSError:
            monkeypatch.setattr(os, name, real)
            if store.versions()[-1] == "v0003":
                assert files_of(store.folder) == before
            else:  # the disk failed after the rename that makes it visible
                assert store.rows("v0004")[-1] == row(5)
                store.discard_after(3)
        else:
            assert version == "v0004"
            monkeypatch.setattr(os, name, real)
            store.discard_after(3)
        assert store.verify() == []


DAMAGES = [
    ("HEAD.json", "v0001"),
    ("v0001/rows.jsonl", EMPTY),
    ("v0001/manifest.json", EMPTY),
    ("v0002/rows.jsonl", "v0001"),
    ("v0002/manifest.json", "v0001"),
]


@pytest.mark.parametrize(("name", "sound"), DAMAGES)
@pytest.mark.parametrize("how", ["a changed byte", "cut", "emptied", "removed"])
def test_damage_is_named_with_a_version_to_go_back_to(store, name, sound, how):
    shutil.rmtree(store.folder / "v0003")
    store.rollback("v0002")
    if name == "HEAD.json":
        sound = "v0002"
    path = store.folder / name
    data = path.read_bytes()
    if how == "removed":
        path.unlink()
    else:
        middle = len(data) // 2
        path.write_bytes(
            {"cut": data[:-3], "emptied": b""}.get(how, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        )
    with pytest.raises(Damaged, match=rf"{name}.*eco store rollback RUN {sound}"):
        store.rows()
    assert any(name in problem for problem in store.verify())
    store.rollback(sound)
    assert store.rows() == {EMPTY: [], "v0001": [row(1), row(2)], "v0002": [row(2), row(3)]}[sound]


def test_a_missing_parent_and_a_foreign_one_are_found(store, tmp_path):
    shutil.rmtree(store.folder / "v0001")
    with pytest.raises(Damaged, match=r"v0001/manifest.json is missing.*rollback RUN v0000"):
        store.rows()
    other = VerifiedStore(tmp_path / "other")
    other.append([row(8)], facts(1))
    shutil.copytree(other.folder / "v0001", store.folder / "v0001")
    with pytest.raises(Damaged, match="v0001 is not the version that v0002 was made from"):
        store.rows()


def test_a_pointer_to_another_version_does_not_pass_for_one(store):
    head = store.folder / "HEAD.json"
    head.write_text(head.read_text().replace("v0002", "v0001"))
    with pytest.raises(Damaged, match=r"HEAD.json has been altered"):
        store.rows()
    shutil.rmtree(store.folder / "v0002")
    shutil.copytree(store.folder / "v0001", store.folder / "v0002")
    store.rollback("v0002")
    assert store.rows() == [row(1), row(2)]


def test_a_damaged_outcome_is_told_and_stops_no_training(store):
    path = store.folder / "v0002" / "outcome.json"
    path.write_text(path.read_text().replace("0.3", "0.9"))
    assert store.rows() == [row(2), row(3)]
    assert len(store.verify()) == 1 and "outcome.json has been altered" in store.verify()[0]


def test_reading_writes_nothing(tmp_path):
    store = VerifiedStore(tmp_path / "none")
    assert (store.exists, store.head, store.rows(), store.verify()) == (False, EMPTY, [], [])
    store.discard_after(0)
    assert not store.folder.exists()


@settings(max_examples=200)
@given(st.text(st.characters(exclude_categories=[]), max_size=40), st.text(st.characters(exclude_categories=[])))
def test_a_row_comes_back_whatever_its_text(prompt, completion):
    """Lone surrogates, null characters and line separators included."""
    one = Row(**{**vars(row(1)), "prompt": prompt, "completion": completion})
    assert one.line().endswith("\n") and one.line().count("\n") == 1 and one.line().isascii()
    assert Row.read(one.line()) == one


def test_going_on_is_possible_after_going_back_from_a_damaged_version(store):
    store.rollback("v0001")
    (store.folder / "v0002/manifest.json").write_text("{}")
    store.discard_after(1)
    assert store.head == "v0001" and store.rows() == [row(1), row(2)]


@pytest.mark.parametrize(("folder", "named"), [("improve", ""), ("improve-frozen", " --folder improve-frozen")])
def test_the_remedy_is_for_the_store_that_is_damaged(store, tmp_path, folder, named):
    other = shutil.copytree(store.folder, tmp_path / folder / "store")
    (other / "HEAD.json").unlink()
    with pytest.raises(Damaged, match=f"`eco store rollback RUN v0003{named}`"):
        VerifiedStore(other).rows()
