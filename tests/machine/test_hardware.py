from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from eco import machine
from eco.machine import dtypes, hardware


def test_the_description_fits_this_machine():
    found = machine.inspect()
    assert 1 <= found.cores <= (hardware.os.cpu_count() or 1)
    assert found.memory_bytes > 100e6
    assert found.torch_version == torch.__version__
    assert len(found.gpus) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert found.compiler is None or Path(found.compiler).is_file()


@pytest.mark.parametrize(
    ("flags", "sets"),
    [
        ("fpu avx avx2 fma", ("avx2",)),
        ("avx2 avx512f avx512_bf16", ("avx2", "avx512", "avx512_bf16")),
        ("avx2 avx512f avx512_bf16 amx_bf16 amx_tile", ("avx2", "avx512", "avx512_bf16", "amx")),
        ("", ()),
    ],
)
def test_instruction_sets_are_read_from_cpuinfo(monkeypatch, flags, sets):
    monkeypatch.setattr(hardware, "_cpuinfo", lambda: {"flags": flags})
    assert hardware.instruction_sets() == sets


@pytest.mark.parametrize(
    ("sets", "dtype", "word"),
    [(("amx",), "bf16", "AMX"), (("avx512_bf16",), "bf16", "AVX512"), (("avx2",), "fp32", "neither")],
)
def test_training_is_bf16_where_the_processor_multiplies_it(monkeypatch, sets, dtype, word):
    monkeypatch.setattr(dtypes, "instruction_sets", lambda: sets)
    choice = machine.training_dtype("cpu")
    assert choice.dtype == dtype
    assert word in choice.reason
    assert machine.decoding_dtype(torch.device("cpu")).dtype == "fp32"


@pytest.mark.parametrize(("supported", "dtype"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_uses_bf16_for_both_where_it_has_it(monkeypatch, supported, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert machine.training_dtype("cuda").dtype == machine.decoding_dtype("cuda:0").dtype == dtype


def test_siblings_count_once_and_quota_and_affinity_limit_the_cores(monkeypatch):
    monkeypatch.setattr(hardware.platform, "system", lambda: "Linux")
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(hardware, "_physical_core", lambda cpu: ("0", str(cpu // 2)))
    monkeypatch.setattr(hardware, "_cgroup_folders", list)
    assert machine.usable_cores() == 4
    monkeypatch.setattr(hardware, "_cpu_quota", lambda: 2.0)
    assert machine.usable_cores() == 2
    monkeypatch.setattr(hardware, "_cpu_quota", lambda: 0.5)
    assert machine.usable_cores() == 1
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert machine.usable_cores() == 1


def test_the_narrowest_container_limit_counts(monkeypatch, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    (inner / "cpu.max").write_text("150000 100000\n")
    (inner / "memory.max").write_text("1000000000\n")
    monkeypatch.setattr(hardware, "_cgroup_folders", lambda: [inner, tmp_path])
    assert hardware._cpu_quota() == 1.5
    assert hardware._usable_memory() == 1_000_000_000


def test_the_compiler_that_the_user_names_comes_first(monkeypatch, tmp_path):
    for name in ("g++", "my-cxx"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert machine.compiler() == str(tmp_path / "g++")
    monkeypatch.setenv("CXX", "my-cxx")
    assert machine.compiler() == str(tmp_path / "my-cxx")
    monkeypatch.setenv("CXX", "absent")
    assert machine.compiler() == str(tmp_path / "g++")
    (tmp_path / "g++").unlink()
    assert machine.compiler() is None


def test_gpus_are_listed_with_their_memory_and_capability(monkeypatch):
    properties = SimpleNamespace(name="H200", total_memory=150_000_000_000, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    assert hardware._gpus() == (machine.Gpu("H200", 150_000_000_000, "9.0"),)
