"""What the machine is spending on the run: processor, memory, GPU. Reading never waits for the device."""

import importlib
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

_EVERY_S = 1.0
"""Readings are at least this far apart: they cost 0.1 ms, and a processor's load over less means little."""


class Resources:
    """Reads the resource metrics of the machine, this process and, on a GPU, the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._nvml = _Nvml.open(device) if device.type == "cuda" else None
        self._row: dict[str, float] = {}
        self._read_at = 0.0
        psutil.cpu_percent(interval=None)

    def row(self) -> dict[str, float]:
        """The newest reading, at most a second old. `cpu_util_percent` is the mean over all processors since the last.

        Memory in GB (1e9 bytes), power in W. Keys beginning with `gpu_` only on a GPU, its load and power only where
        nvidia-ml-py is installed.
        """
        now = time.monotonic()
        if not self._row or now - self._read_at >= _EVERY_S:
            self._row, self._read_at = self._read(), now
        return self._row

    def _read(self) -> dict[str, float]:
        row = {
            "cpu_util_percent": psutil.cpu_percent(interval=None),
            "ram_used_percent": psutil.virtual_memory().percent,
            "process_rss_gb": self._process.memory_info().rss / 1e9,
        }
        if self._device.type == "cuda":
            row |= {
                "gpu_mem_alloc_gb": torch.cuda.memory_allocated(self._device) / 1e9,
                "gpu_mem_reserved_gb": torch.cuda.memory_reserved(self._device) / 1e9,
                "gpu_mem_peak_gb": torch.cuda.max_memory_allocated(self._device) / 1e9,
            }
        return row | (self._nvml.row() if self._nvml else {})


def peak_memory() -> int:
    """Bytes of memory that this process has held at most (its resident set, without those it started).

    Linux hands the figure of getrusage on to the programs that a process starts; that of /proc begins anew with each.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    resource = importlib.import_module("resource")  # not on Windows
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS


class _Nvml:
    """Load and power of one GPU from NVIDIA's management library."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle

    @classmethod
    def open(cls, device: torch.device) -> "_Nvml | None":
        """The reader for `device`, or None where nvidia-ml-py is missing or the driver refuses.

        The device is found by its UUID, since CUDA_VISIBLE_DEVICES renumbers torch's devices and not NVML's.
        """
        try:
            pynvml = importlib.import_module("pynvml")
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            uuid = torch.cuda.get_device_properties(device).uuid
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        except pynvml.NVMLError:
            return None

    def row(self) -> dict[str, float]:
        return {
            "gpu_util_percent": float(self._library.nvmlDeviceGetUtilizationRates(self._handle).gpu),
            "gpu_power_w": self._library.nvmlDeviceGetPowerUsage(self._handle) / 1000,
        }
