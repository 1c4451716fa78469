"""The AMX code, run with its instructions done in software: most machines that run these tests have no AMX."""

import ctypes
import subprocess
from pathlib import Path

import pytest

from eco.kernels import native
from eco.machine import compiler

NATIVE = Path(native.__file__).parent
TILES = Path(__file__).parent / "software_tiles.h"


@pytest.mark.parametrize("tiles_multiply", [True, False])
def test_products_in_tiles(tiles_multiply: bool, tmp_path: Path, cpp: None) -> None:
    program, library, prefix = compiler(), tmp_path / "check.so", tmp_path / "tiles.h"
    assert program is not None
    broken = "" if tiles_multiply else "#undef _tile_dpbf16ps\n#define _tile_dpbf16ps(c, a, b)\n"
    prefix.write_text(f'#include "{TILES}"\n{broken}')
    options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-psabi", f"-I{NATIVE}", "-include", str(prefix)]
    subprocess.run([program, *options, str(NATIVE / "check.cpp"), "-o", str(library)], check=True)
    assert (ctypes.CDLL(str(library)).eco_check() == 0) == tiles_multiply
