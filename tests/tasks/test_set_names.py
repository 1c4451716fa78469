"""Sets of tasks by the name they have on the command line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco import plugins
from eco.tasks import sets
from eco.tasks.sets import SetName, open_tasks


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("humaneval", SetName("humaneval", 1, None)),
        ("synthesis:12", SetName("synthesis", 12, None)),
        ("mbpp@~/a:b@c.jsonl", SetName("mbpp", 1, "~/a:b@c.jsonl")),
        (" gsm8k:2@x ", SetName("gsm8k", 2, "x")),
    ],
)
def test_a_name_has_a_level_and_a_path(text, name):
    assert SetName.parse(text) == name


@given(
    st.from_regex(r"\w+", fullmatch=True),
    st.integers(0, 10**9 - 1),
    st.none() | st.from_regex(r"\S(.*\S)?", fullmatch=True),
)
def test_a_name_is_read_as_it_is_written(name, level, path):
    written = SetName(name, level, path)
    assert SetName.parse(str(written)) == written


@pytest.mark.parametrize("text", ["", "a b", "../x", ":2", "a:", "a:x", "a:-1", "a:2:3", "a@", "@x"])
def test_what_is_no_name_of_a_set(text):
    with pytest.raises(ValueError, match="is no set of tasks; write NAME, NAME:LEVEL or NAME@PATH"):
        SetName.parse(text)
    with pytest.raises(ValueError, match="is no set of tasks"):
        open_tasks(text, "train", 5)


def test_a_set_is_asked_for_what_its_name_says(monkeypatch):
    asked = []

    class Recorder:
        def tasks(self, *args, **kwargs):
            asked.append((args, kwargs))
            return ["a task"]

    monkeypatch.setattr(sets.plugins, "find", lambda room, name: asked.append((room, name)) or Recorder())
    assert open_tasks("synthesis:12", "held_out", 5, seed=7) == ["a task"]
    open_tasks("mbpp@/a:b@c.jsonl", "train", 6)
    assert asked == [
        ("tasks.sets", "synthesis"),
        (("held_out", 5), {"level": 12, "seed": 7, "path": None}),
        ("tasks.sets", "mbpp"),
        (("train", 6), {"level": 1, "seed": 0, "path": "/a:b@c.jsonl"}),
    ]


def test_unknown_sets_suggest_the_nearest():
    with pytest.raises(ValueError, match=r"no 'humanevel' in eco/tasks/sets; did you mean 'humaneval'.*there is: "):
        open_tasks("humanevel", "held_out", 5)


@pytest.mark.parametrize("name", ["humaneval", "mbpp", "gsm8k"])
def test_published_sets_have_no_levels(name):
    with pytest.raises(ValueError, match=f"{name} has no levels"):
        open_tasks(f"{name}:2", "held_out", 5)


def test_without_a_number_a_generated_set_serves_50_tasks_and_a_published_one_all(tmp_path):
    for name in ("arithmetic", "expressions", "prediction", "repair", "synthesis"):
        tasks = open_tasks(name, "held_out", 0)
        assert len({task.name for task in tasks}) == len(tasks) == 50
        assert {task.name for task in open_tasks(name, "held_out", 0, seed=1)} != {task.name for task in tasks}
    assert [task.name for task in open_tasks("arithmetic:3", "train", 7)] == [
        task.name for task in open_tasks("arithmetic:3", "train", 9)[:7]
    ]
    file = tmp_path / "gsm8k.jsonl"
    file.write_text('{"question": "How many?", "answer": "#### 5"}\n' * 60)
    assert len(open_tasks(f"gsm8k@{file}", "held_out", 0)) == 60


def test_which_sets_are_published():
    known = plugins.names("tasks.sets")
    published = {name for name in known if getattr(plugins.find("tasks.sets", name), "PUBLISHED", False)}
    assert published == {"humaneval", "mbpp", "gsm8k"}


def test_fewer_tasks_than_none_cannot_be_wanted():
    with pytest.raises(ValueError, match=r"arithmetic:2: -1 tasks are wanted; ask for at least 1"):
        open_tasks("arithmetic:2", "held_out", -1)


def test_a_set_without_tasks_is_refused(monkeypatch):
    monkeypatch.setattr(sets.plugins, "find", lambda room, name: type("Empty", (), {"tasks": lambda *_, **__: []}))
    with pytest.raises(ValueError, match="arithmetic has no task of the split 'train'"):
        open_tasks("arithmetic", "train", 5)
