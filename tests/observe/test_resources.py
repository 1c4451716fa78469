import mmap
import subprocess
import sys
from types import SimpleNamespace

import torch

from eco.observe import resources
from eco.observe.resources import Resources, peak_memory

CPU = torch.device("cpu")


def test_a_reading_is_plausible_and_has_no_gpu_keys_on_a_cpu(monkeypatch):
    row = Resources(CPU).row()
    assert row.keys() == {"cpu_util_percent", "ram_used_percent", "process_rss_gb"}
    assert 0 <= row["cpu_util_percent"] <= 100
    assert 0 < row["ram_used_percent"] < 100
    assert 0.05 < row["process_rss_gb"] < 100


def test_memory_taken_shows_in_the_next_reading(monkeypatch):
    monkeypatch.setattr(resources, "_EVERY_S", 0.0)
    reader = Resources(CPU)
    before = reader.row()["process_rss_gb"]
    with mmap.mmap(-1, 200_000_000) as block:
        block.write(b"x" * len(block))
        assert reader.row()["process_rss_gb"] - before > 0.15


def test_readings_are_kept_for_a_second(monkeypatch):
    reader = Resources(CPU)
    assert reader.row() is reader.row()
    monkeypatch.setattr(resources, "_EVERY_S", 0.0)
    assert reader.row() is not reader.row()


def test_a_gpu_is_found_by_its_uuid_and_read_in_percent_and_watts(monkeypatch):
    library = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=73),
        nvmlDeviceGetPowerUsage=lambda handle: 251_500 if handle == "GPU-abc" else 0,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    for name in ("memory_allocated", "memory_reserved", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 2_000_000_000)
    row = Resources(torch.device("cuda:0")).row()
    assert (row["gpu_util_percent"], row["gpu_power_w"], row["gpu_mem_peak_gb"]) == (73.0, 251.5, 2.0)


def test_without_the_nvidia_library_the_rest_is_still_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for name in ("memory_allocated", "memory_reserved", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 0)
    row = Resources(torch.device("cuda:0")).row()
    assert "gpu_mem_alloc_gb" in row
    assert "gpu_util_percent" not in row


def test_the_peak_of_memory_is_the_process_own_and_stays():
    block = b"x" * (1 << 29)
    held = peak_memory()
    del block
    assert peak_memory() > held - (1 << 20) > 1 << 29, "the system counts in portions of pages"
    ask = "from eco.observe.resources import peak_memory; print(peak_memory())"
    child = int(subprocess.run([sys.executable, "-c", ask], stdout=subprocess.PIPE, check=True).stdout)
    assert 1 << 24 < child < held - (1 << 28), "the child does not start at its parent's peak"
