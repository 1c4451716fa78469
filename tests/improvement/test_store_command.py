"""`eco store` on the store of a run."""

import json

import pytest
from stored import facts, row

from eco.improvement.store.row import Row
from eco.improvement.store.versions import VerifiedStore


@pytest.fixture
def run(tmp_path):
    """A run with two versions, the second of which counts and holds codes for terminals."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("extends: demo\n")
    store = VerifiedStore(folder / "improve" / "store")
    store.promote(store.append([row(1), row(2)], facts(1)))
    hostile = Row(**{**vars(row(3)), "completion": "    return '\x1b[31m\ud800'\n"})
    store.promote(store.append([hostile], facts(2, removed=[row(1).id])))
    store.record_outcome("v0002", {"before": 0.1, "after": 0.3})
    return folder


def answer(completed):
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


def test_list_tells_every_version(eco, run):
    assert eco("store", "rollback", run, "v0001").returncode == 0
    told = answer(eco("store", "list", run, "--json"))
    assert told["head"] == "v0001"
    kinds = ("version", "parent", "added", "removed", "rows", "counts")
    assert [tuple(one[kind] for kind in kinds) for one in told["versions"]] == [
        ("v0001", "v0000", 2, 0, 2, True), ("v0002", "v0001", 1, 1, 2, False),
    ]  # fmt: skip
    first, second = eco("store", "list", run).stdout.splitlines()[1:]
    assert first.strip().endswith("HEAD") and second.strip().endswith("does not count")


def test_show_tells_where_a_version_comes_from(eco, run):
    told = answer(eco("store", "show", run, "--json"))
    assert (told["version"], told["parent"], told["round"], told["total"]) == ("v0002", "v0001", 2, 2)
    assert told["funnel"]["drawn"] == 8 and told["outcome"]["after"] == 0.3
    assert [one["completion"] for one in told["examples"]] == ["    return '\x1b[31m\ud800'\n"]
    text = eco("store", "show", run).stdout
    assert "passed 2" in text and "\x1b" not in text and "\\x1b[31m\\ud800" in text
    assert answer(eco("store", "show", run, "v0001", "--json"))["version"] == "v0001"
    assert answer(eco("store", "show", run, "v0000", "--json"))["total"] == 0


def test_diff_tells_rows_added_and_removed(eco, run):
    told = answer(eco("store", "diff", run, "v0001", "v0002", "--json"))
    assert [[one["id"] for one in told[side]] for side in ("added", "removed")] == [[row(3).id], [row(1).id]]
    text = eco("store", "diff", run, "v0002", "v0000").stdout
    assert "0 added, 2 removed" in text and "\x1b" not in text


def test_rollback_and_export(eco, run, tmp_path):
    assert answer(eco("store", "rollback", run, "--json")) == {"head": "v0001"}
    assert "v0001" in eco("store", "export", run, "rows.jsonl").stdout
    assert [Row.read(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == [row(1), row(2)]
    assert "v0002 counts now, with 2 rows" in eco("store", "rollback", run, "v0002").stdout


def test_damage_is_told_and_mended_as_the_message_says(eco, run):
    shard = run / "improve" / "store" / "v0002" / "rows.jsonl"
    shard.write_bytes(shard.read_bytes()[:-9])
    for action in (["list"], ["show"], ["export", "x.jsonl"]):
        completed = eco("store", action[0], run, *action[1:])
        assert completed.returncode == 1
        assert "v0002/rows.jsonl has been altered or cut" in completed.stderr
        assert "eco store rollback RUN v0001" in completed.stderr
    assert eco("store", "rollback", run, "v0001").returncode == 0
    assert len(answer(eco("store", "show", run, "--json"))["examples"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "v0007"], "no version 'v0007'; there is: v0000, v0001, v0002"),
        (["rollback", "../v0001"], "no version '../v0001'"),
        (["diff", "v0001"], "diff takes two versions"),
        (["rollback", "v0001", "v0002"], "rollback takes at most 1"),
        (["export"], "export to which file?"),
        (["export", "none/rows.jsonl"], "no folder"),
        (["list", "--folder", "improve-random-reward"], "improve-random-reward/store is no store yet; `eco improve"),
    ],
)
def test_bad_requests_get_a_clear_answer(eco, run, words, message):
    completed = eco("store", words[0], run, *words[1:])
    assert completed.returncode == 1 and message in completed.stderr
    assert "(--debug shows where)" not in completed.stderr


def test_a_folder_that_is_no_run(eco, tmp_path):
    assert "is not a run directory" in eco("store", "list", tmp_path / "none").stderr


def test_a_store_in_use_is_not_moved(eco, run):
    from eco.observe.run import RunDirectory

    with RunDirectory(run):
        assert "is in use by process" in eco("store", "rollback", run).stderr
    assert eco("store", "rollback", run).returncode == 0
