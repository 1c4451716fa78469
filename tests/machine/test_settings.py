import json
import os
import subprocess
import sys

import pytest
import torch

from eco import machine
from eco.machine import settings

PROBE = """
import json, sys, torch
from eco import machine
before = machine.malloc_keeps_memory()
machine.prepare()
print(json.dumps([before, machine.malloc_keeps_memory(), torch.get_num_threads()]))
"""

PAGE_FAULTS = """
import resource, sys, torch
from eco import machine
if sys.argv[1] == "prepared":
    machine.prepare()
def step():
    return float(torch.ones(10_000_000)[0])
for _ in range(20):  # aligned blocks fit their own holes only after some rounds
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def python(code, *arguments, **environment):
    clean = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", code, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=clean | environment)
    return json.loads(answer.stdout)


glibc_only = pytest.mark.skipif(not settings.is_glibc(), reason="only glibc's malloc can be told")


@glibc_only
def test_prepare_changes_the_process_and_says_so():
    before, after, threads = python(PROBE)
    assert (before, after) == (False, True)
    assert threads == machine.usable_cores()


def test_the_users_own_thread_count_wins():
    assert python(PROBE, OMP_NUM_THREADS="1")[2] == 1


@glibc_only
def test_large_tensors_are_no_longer_faulted_in_at_every_step():
    plain, prepared = python(PAGE_FAULTS, "plain"), python(PAGE_FAULTS, "prepared")
    assert plain > 1000  # pages; 10 steps of 40 MB are 97,000 of 4 KiB, fewer where they are larger
    assert prepared < plain / 10


def test_further_calls_change_nothing():
    first = machine.prepare()
    torch_threads = torch.get_num_threads()
    assert machine.prepare() is first
    assert torch.get_num_threads() == torch_threads == first.threads


def test_arithmetic_stays_what_it_was():
    machine.prepare()
    assert torch.get_float32_matmul_precision() == "highest"
    assert 5e-324 > 0.0


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(settings.platform, "libc_ver", lambda: ("", ""))
    assert machine.malloc_keeps_memory() is False
    assert settings.prepare.__wrapped__().malloc_keep_bytes is None
