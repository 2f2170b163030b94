"""TensorRT on an NVIDIA GPU: :mod:`hwnas_profilers.tensorrt_engine` over the package ``tensorrt``.

It has not run on a GPU yet.
"""

from __future__ import annotations

from hwnas_profilers.tensorrt_engine import TensorRtFamily


class TensorRt(TensorRtFamily):
    """TensorRT 10 or newer."""

    name = "tensorrt"
    module = "tensorrt"
    packages = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
    install = "pip install tensorrt"


RUNTIME = TensorRt()
