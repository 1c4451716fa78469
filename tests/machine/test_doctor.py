from importlib import metadata

import pytest

from eco import machine
from eco.machine import Check, cache_folder, checks, doctor


def by_name(found):
    return {check.name: check for check in found}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ECO_CACHE", str(tmp_path / "cache"))


def test_it_looks_at_everything_and_this_machine_passes():
    found = by_name(doctor())
    for name in (
        "python", "torch", "tyro", "extra hf", "extra parquet", "extra track", "C++ compiler", "processor",
        "instruction sets", "memory", "cache folder", "working folder", "GPU", "bf16 matrix product",
        "memory allocator", "threads", "dtype to train", "dtype to generate",
    ):  # fmt: skip
        assert found[name].detail
    assert [check for check in found.values() if check.required and not check.ok] == []
    assert found["dtype to train"].detail.startswith(machine.training_dtype("cpu").dtype)


def test_every_failure_is_listed_each_with_a_remedy(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ECO_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(checks.sys, "version_info", (3, 10, 0))
    monkeypatch.setattr(checks, "_LEAST_MEMORY_BYTES", 1e18)
    version = metadata.version

    def without_tyro(name):
        if name == "tyro":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(checks.metadata, "version", without_tyro)
    failed = {check.name: check for check in doctor() if check.required and not check.ok}
    assert set(failed) == {"python", "tyro", "memory", "cache folder"}
    assert all(check.remedy for check in failed.values())
    assert failed["tyro"].remedy == "pip install tyro"
    assert "set ECO_CACHE" in failed["cache folder"].remedy


def test_a_check_that_breaks_fails_and_hides_none_of_the_others(monkeypatch):
    def broken():
        raise RuntimeError("no such instruction")

    monkeypatch.setitem(checks._LOOKS, "bf16 matrix product", broken)
    found = by_name(doctor())
    assert found["bf16 matrix product"].ok is False
    assert "no such instruction" in found["bf16 matrix product"].detail
    assert found["threads"].ok


def test_a_missing_extra_is_no_failure_and_gives_the_command(monkeypatch):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    found = by_name(doctor())["extra parquet"]
    detail = "pyarrow not installed (reading .parquet corpora)"
    assert found == Check("extra parquet", False, False, detail, "pip install 'eco-lm[parquet]'")


def test_no_room_on_the_disk_is_a_failure(monkeypatch):
    monkeypatch.setattr(checks, "_LEAST_DISK_BYTES", 1e18)
    found = by_name(doctor())
    assert not found["cache folder"].ok
    assert not found["working folder"].ok


def test_a_torch_that_multiplies_wrongly_is_a_failure(monkeypatch):
    import torch

    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self * 1.1)
    assert not by_name(doctor())["bf16 matrix product"].ok


def test_the_cache_is_in_the_home_folder_unless_told(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("ECO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "eco"
