"""An archive gives back the bundle that was packed, or says what is wrong with it and leaves nothing behind."""

import gzip
import io
import os
import signal
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from eco.ship.archive import open_archive, write_archive
from eco.ship.manifest import MANIFEST, Damaged, check_folder, parse, write_manifest

FILES = {"README.md": b"# m\n", "facts.json": b"{}", "model.safetensors": bytes(range(256)), "plots/loss.png": b"png"}


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "made" / "small"
    fill(folder)
    write_manifest(folder)
    return folder


@pytest.fixture
def archive(bundle, tmp_path):
    path = tmp_path / "small_model.tar.gz"
    write_archive(bundle, path)
    return path


@pytest.fixture
def place(tmp_path):
    """An empty folder to unpack into."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def fill(folder):
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def crafted(path, bundle, *more, first=(), ending=b"", without=None):
    """An archive of the bundle with someone else's members, (TarInfo or name, content), before and after it."""
    names = [name for name in [MANIFEST, *sorted(FILES)] if name != without]
    inside = [(f"small/{name}", (bundle / name).read_bytes()) for name in names]
    buffer = io.BytesIO()
    with tarfile.open(mode="w", fileobj=buffer) as tar:
        for member, content in [*first, *inside, *more]:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(gzip.compress(buffer.getvalue() + ending))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def refused(path, place, match=None):
    with pytest.raises(Damaged, match=match):
        open_archive(path, place)
    assert list(place.iterdir()) == []


def test_an_archive_gives_back_the_bundle(archive, place):
    opened = open_archive(archive, place)
    assert opened == place / "small"
    assert {name: (opened / name).read_bytes() for name in FILES} == FILES
    assert set(check_folder(opened).files) == set(FILES)


def test_equal_bundles_give_equal_archives(archive, tmp_path):
    other = tmp_path / "elsewhere" / "small"
    for name, content in reversed(FILES.items()):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes(content)
        os.utime(other / name, (1, 1))
        (other / name).chmod(0o600)
    write_manifest(other)
    write_archive(other, tmp_path / "other.tar.gz")
    assert (tmp_path / "other.tar.gz").read_bytes() == archive.read_bytes()


def test_the_tar_program_reads_it(archive, place):
    subprocess.run(["tar", "xzf", archive], cwd=place, check=True)
    assert (place / "small" / "plots" / "loss.png").read_bytes() == b"png"


def test_an_archive_that_was_cut_off_is_refused(archive, place, tmp_path):
    content = archive.read_bytes()
    short = tmp_path / "short.tar.gz"
    for length in [*range(0, len(content), 16), len(content) - 1]:
        short.write_bytes(content[:length])
        refused(short, place)


def test_every_changed_byte_is_refused(archive, place, tmp_path):
    """But for those that change nothing: gzip's date, and a run of zeros copied from another run of zeros."""
    content = archive.read_bytes()
    changed, harmless = tmp_path / "changed.tar.gz", 0
    for at in range(len(content)):
        changed.write_bytes(content[:at] + bytes([content[at] ^ 0x04]) + content[at + 1 :])
        if unpacked(changed) == unpacked(archive):
            harmless += 1
        else:
            refused(changed, place)
    assert harmless < len(content) / 5


def unpacked(path):
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):
        return None


def test_what_the_manifest_does_not_name_is_refused(bundle, place, tmp_path):
    evil = tmp_path / "evil.tar.gz"
    refused(crafted(evil, bundle, ("small/extra.txt", b"x")), place, "'small/extra.txt', which is not in its MANIFEST")
    refused(crafted(evil, bundle, ("small/facts.json", b"{}")), place, "or there twice")
    refused(crafted(evil, bundle, ("facts.json", b"{}")), place, "facts.json")
    refused(crafted(evil, bundle, first=[("small/README.md", b"# m\n")]), place, "first file is 'small/README.md'")


def test_a_file_that_was_replaced_or_left_out_is_refused(bundle, place, tmp_path):
    """Where the archive is whole in itself: someone unpacked it and packed it again."""
    evil = tmp_path / "evil.tar.gz"
    weights = bundle / "model.safetensors"
    proved = weights.read_bytes()
    weights.write_bytes(proved[::-1])
    refused(crafted(evil, bundle), place, r"model\.safetensors has been altered")
    weights.write_bytes(proved[:-1])
    refused(crafted(evil, bundle), place, r"model\.safetensors has 255 bytes instead of 256")
    weights.write_bytes(proved)
    refused(crafted(evil, bundle, without="facts.json"), place, r"it lacks facts\.json")


@pytest.mark.parametrize("name", ["", ".", "..", "a\\b"])
def test_a_bundle_of_no_name_is_refused(bundle, place, tmp_path, name):
    first = [(f"{name}/{MANIFEST}", (bundle / MANIFEST).read_bytes())]
    refused(crafted(tmp_path / "evil.tar.gz", bundle, first=first), place, "its first file is")


def test_what_there_is_no_room_for_is_not_begun(archive, place, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match="unpacks to") as raised:
        open_archive(archive, place)
    assert not isinstance(raised.value, Damaged) and list(place.iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/outside", "small/../../outside", "small/plots/../../../outside"])
def test_a_path_out_of_the_folder_is_refused(bundle, place, tmp_path, name):
    refused(crafted(tmp_path / "evil.tar.gz", bundle, (name, b"x")), place, "outside")
    assert not (tmp_path / "outside").exists() and not Path("/outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_what_is_no_plain_file_is_refused(bundle, place, tmp_path, kind):
    member = special("small/link", kind, "/etc/passwd")
    refused(crafted(tmp_path / "evil.tar.gz", bundle, (member, b"")), place, "no plain file")
    refused(crafted(tmp_path / "evil.tar.gz", bundle, first=[(special("small/MANIFEST.json", kind), b"")]), place)


def test_no_more_is_read_than_the_manifest_says(bundle, place, tmp_path):
    bomb = bytes(64 << 20)
    refused(crafted(tmp_path / "evil.tar.gz", bundle, ending=bomb), place, "unpacks to more")
    header = special("small/pax", tarfile.XHDTYPE)
    refused(crafted(tmp_path / "evil.tar.gz", bundle, (header, bomb)), place, "unpacks to more")


def test_a_bundle_is_not_written_over_what_is_there(archive, place):
    (place / "small").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        open_archive(archive, place)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_changed_byte_of_a_file_is_found(bundle, name, tmp_path):
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(Damaged, match=name):
        check_folder(bundle)
    with pytest.raises(Damaged, match=name):
        write_archive(bundle, tmp_path / "never.tar.gz")
    assert not (tmp_path / "never.tar.gz").exists()


def test_missing_further_and_linked_files_are_found(bundle):
    (bundle / "facts.json").unlink()
    (bundle / "more.txt").write_text("x")
    (bundle / "README.md").rename(bundle.parent / "README.md")
    (bundle / "README.md").symlink_to(bundle.parent / "README.md")
    with pytest.raises(Damaged, match=r"more.txt is not in MANIFEST.json; README.md is no plain file; facts.json is m"):
        check_folder(bundle)


def test_a_manifest_may_not_name_what_lies_elsewhere(bundle, monkeypatch):
    for name in ("../up", "/root", "a//b", "a/../b", ".hidden", "a\\b", "", MANIFEST):
        monkeypatch.setattr("eco.ship.manifest._digest_of", lambda body: "right")
        content = f'{{"format": 1, "files": {{"{name}": {{"size": 1, "sha256": "x"}}}}, "sha256": "right"}}'
        with pytest.raises(Damaged):
            parse(content.encode())
    with pytest.raises(Damaged, match="cannot be read"):
        parse(b"[" * 100_000)


def test_a_later_format_is_no_damage(bundle, monkeypatch):
    monkeypatch.setattr("eco.ship.manifest.FORMAT", 2)
    write_manifest_again(bundle)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="newer than 1") as raised:
        check_folder(bundle)
    assert not isinstance(raised.value, Damaged)


def write_manifest_again(folder):
    (folder / MANIFEST).unlink()
    write_manifest(folder)


def test_a_kill_leaves_the_archive_that_was_there(bundle, archive, tmp_path):
    """The process dies after it wrote everything, right before the rename."""
    before = archive.read_bytes()
    (bundle / "facts.json").write_text('{"changed": true}')
    write_manifest_again(bundle)
    code = "import os, sys, pathlib; from eco.ship.archive import write_archive as write\n"
    code += "os.replace = lambda *_: os.kill(os.getpid(), 9)\nwrite(*map(pathlib.Path, sys.argv[1:]))"
    for target in (archive, tmp_path / "new.tar.gz"):
        died = subprocess.run([sys.executable, "-c", code, bundle, target], capture_output=True)
        assert died.returncode == -signal.SIGKILL, died.stderr
    assert archive.read_bytes() == before and not (tmp_path / "new.tar.gz").exists()
