import pytest

from eco.flags import Flag, parse, read, split_files


def test_a_flag_takes_every_word_up_to_the_next_flag():
    flags = parse(["--steps", "60", "--data.paths", "a", "b", "--quiet", "--lr=-1e-3"])
    assert [(f.name, f.value) for f in flags] == [
        ("steps", ["60"]),
        ("data.paths", ["a", "b"]),
        ("quiet", None),
        ("lr", ["-1e-3"]),
    ]


def test_a_word_before_the_first_flag_is_refused_by_name():
    with pytest.raises(ValueError, match="unexpected 'steps'"):
        parse(["steps", "60"])


def test_files_skip_blank_lines_and_comments_and_split_as_a_shell(tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text("# a comment\n\n--steps 7  # seven\n--prompts 'two words' \"# not a comment\"\n--no-resume\n")
    flags, rest = split_files(["demo", f"@{file}", "--steps", "8"])
    assert [(f.name, f.value) for f in flags] == [
        ("steps", ["7"]),
        ("prompts", ["two words", "# not a comment"]),
        ("no-resume", None),
    ]
    assert rest == ["demo", "--steps", "8"]


def test_errors_name_file_and_line(tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text("--steps 7\n--prompts 'open quote\n")
    with pytest.raises(ValueError, match=r"flags\.txt line 2"):
        read(file)
    with pytest.raises(ValueError, match="cannot read the flags file"):
        read(tmp_path / "absent.txt")


def test_a_byte_order_mark_is_no_word(tmp_path):
    file = tmp_path / "flags.txt"
    file.write_bytes(b"\xef\xbb\xbf--steps 7\r\n")
    assert [(f.name, f.value) for f in read(file)] == [("steps", ["7"])]


def test_a_file_is_looked_for_here_and_then_among_those_that_ship(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped, _ = split_files(["@train_sigma_args.txt"])
    assert shipped[0].value == ["sigma"]
    (tmp_path / "train_sigma_args.txt").write_text("--steps 3\n")
    assert split_files(["@train_sigma_args.txt"])[0] == [Flag("steps", ["3"], "train_sigma_args.txt line 1")]
    for elsewhere in ("@nowhere/train_sigma_args.txt", f"@{tmp_path}/nowhere/train_sigma_args.txt", "@absent.txt"):
        with pytest.raises(ValueError, match=r"cannot read the flags file.*; shipped: train_sigma_args.txt"):
            split_files([elsewhere])
