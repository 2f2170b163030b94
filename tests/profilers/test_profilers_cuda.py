"""The driver's library, as far as it goes without a GPU: a stand-in of five of its functions, compiled here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hwnas_profilers.cuda import gpu_hardware

SOURCE = """
#include <string.h>
int cuInit(unsigned int flags) { return INIT; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "NVIDIA Stand-in", size); return 0; }
int cuDeviceGetAttribute(int *value, int key, int device) { *value = key == 75 ? 8 : 9; return 0; }
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuGetErrorName(int status, const char **text) { *text = "CUDA_ERROR_NO_DEVICE"; return 0; }
"""


@pytest.fixture
def library(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if shutil.which("gcc") is None:
        message = "gcc is not installed (apt-get install gcc libc6-dev)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    (tmp_path / "cuda.c").write_text(SOURCE.replace("INIT", str(request.param)))
    command = ["gcc", "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so"), str(tmp_path / "cuda.c")]
    subprocess.run(command, check=True, timeout=60)
    return str(tmp_path / "libcuda.so")


@pytest.mark.system("gcc")
@pytest.mark.parametrize("library", [0], indirect=True)
def test_a_gpu_is_named_with_its_capability_and_driver(library: str) -> None:
    assert gpu_hardware(library) == (
        {"gpu_model": "NVIDIA Stand-in", "gpu_capability": "sm89"},
        {"gpu_driver": "13.1"},
    )


@pytest.mark.system("gcc")
@pytest.mark.parametrize("library", [100], indirect=True)
def test_a_driver_without_a_gpu_names_none(library: str) -> None:
    assert gpu_hardware(library) == ({}, {})


def test_without_a_driver_there_is_no_gpu() -> None:
    assert gpu_hardware("libcuda-that-is-not-there.so") == ({}, {})
