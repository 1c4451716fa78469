"""Wrong input ends with a message that says what and where, a non-zero status, and no traceback."""

import pytest

import eco as package


def failing(completed):
    assert completed.returncode not in (0, 130), completed.stdout
    assert "Traceback" not in completed.stderr
    return completed.stderr


def test_unknown_commands_and_recipes(eco):
    assert "did you mean 'train'" in failing(eco("trian"))
    assert "did you mean 'demo'" in failing(eco("train", "demmo"))
    assert "did you mean 'train.steps'" in failing(eco("train", "demo", "--train.stepz", "1"))
    assert "which recipe?" in failing(eco("train", "--steps", "1"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.heads": 5}, "5"),
        ({"model.vocab_size": 300}, "vocab_size is 300"),
        ({"train.batch_size": 10_000}, "smaller than a batch"),
        ({"tokenizer.path": "absent.json"}, "absent.json"),
        ({"data.paths": ["absent"]}, "absent"),
        ({"log.trackers": ["excel"]}, "log.trackers.*'tensorboard'.*excel"),
        ({"train.device": "cuda"}, "cuda"),
    ],
)
def test_impossible_settings(tiny, tmp_path, settings, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        package.train(tiny, {"output_dir": str(tmp_path / "run"), **settings})


def test_an_empty_corpus_and_binary_files(eco, tiny, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    assert "texts" in failing(eco("train", tiny, "--data.paths", "texts", "--output-dir", "run"))
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 10)
    (folder / "latin.txt").write_bytes("déjà vu".encode("latin-1"))
    message = failing(eco("train", tiny, "--data.paths", "texts", "--output-dir", "run"))
    assert "texts" in message


def test_undecodable_files_are_counted_and_skipped(eco, tiny, tmp_path, corpus):
    (tmp_path / "binary.txt").write_bytes(b"\x00\xff" * 100)
    done = eco("train", tiny, "--data.paths", corpus, tmp_path / "binary.txt", "--output-dir", "run", "--steps", "1")
    assert done.returncode == 0, done.stderr
    assert "left out: 1" in done.stdout


def test_an_output_path_that_cannot_be_written(eco, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write" in failing(eco("train", tiny, "--output-dir", "file/run"))


def test_commands_on_a_directory_that_is_no_run(eco, tmp_path):
    for command in ("eval", "plot", "checkpoints", "resume"):
        assert "not a run directory" in failing(eco(command, tmp_path))
    assert "not a run directory" in failing(eco("generate", tmp_path, "--prompt", "x"))


def test_resume_from_python_on_what_is_no_run(tiny, tmp_path):
    for path in (tmp_path / "nowhere", tiny):
        with pytest.raises(ValueError, match="is not a run directory"):
            package.resume(path)


def test_debug_shows_the_trace(eco):
    with pytest.raises(ValueError, match="demmo"):
        eco("train", "demmo", "--debug")
