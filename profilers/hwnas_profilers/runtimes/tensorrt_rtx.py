"""TensorRT-RTX on an NVIDIA GPU: :mod:`hwnas_profilers.tensorrt_engine` over the package ``tensorrt_rtx``.

It builds for the compute capabilities it names, and compiles kernels when an engine is opened. It has not run on a GPU yet.
"""

from __future__ import annotations

from hwnas_profilers.tensorrt_engine import TensorRtFamily


class TensorRtRtx(TensorRtFamily):
    """TensorRT-RTX 1.7 or newer."""

    name = "tensorrt_rtx"
    module = "tensorrt_rtx"
    packages = ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx")
    install = "pip install tensorrt-rtx-cu13"


RUNTIME = TensorRtRtx()
