"""``model.onnx`` to ``model.param`` and ``model.bin`` by pnnx, and ``model.json``: names and shapes of input and output.

``example.npy`` holds images ``[n, channels, height, width]``; ``outputs.npy`` gets what ncnn computes of them, one by one.
Of what else pnnx writes, Python code among it, nothing is run and nothing stays.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray


def binary() -> pathlib.Path:
    """Return pnnx's program; its Python package is not imported, because that asks for torch."""
    spec = importlib.util.find_spec("pnnx")
    assert spec is not None
    assert spec.origin is not None
    return pathlib.Path(spec.origin).with_name("pnnx.exe" if os.name == "nt" else "pnnx")


def to_files(half: bool) -> None:
    """Write ``model.param`` and ``model.bin``."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = pathlib.Path(name)
        shutil.copyfile("model.onnx", folder / "model.onnx")
        subprocess.run([str(binary()), "model.onnx", f"fp16={int(half)}"], cwd=folder, check=True)
        for kind in ("param", "bin"):
            shutil.move(folder / f"model.ncnn.{kind}", f"model.{kind}")


def opened(half: bool) -> Any:
    """Return the network, computing as hwnas's runtime does: nothing in half precision unless weights are."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = False
    net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = half
    net.opt.use_fp16_arithmetic = half and bool(ncnn.cpu_support_arm_asimdhp())
    if net.load_param("model.param") or net.load_model("model.bin"):
        sys.exit("ncnn cannot read what pnnx wrote: the network holds an operation that ncnn does not have (see above)")
    return net


def computed(net: Any, image: NDArray[Any], source: str, sink: str) -> NDArray[Any]:
    """Return what the network computes of one image."""
    import ncnn

    extractor = net.create_extractor()
    values = np.ascontiguousarray(image)
    extractor.input(source, ncnn.Mat(values))
    status, result = extractor.extract(sink)
    if status:
        sys.exit(f"ncnn cannot run what pnnx wrote (status {status})")
    return np.array(result)


def main() -> None:
    """Convert as the request says."""
    request = json.loads(pathlib.Path(sys.argv[1]).read_text())
    half = request["precision"] == "fp16"
    to_files(half)
    net = opened(half)
    (source,), (sink,) = net.input_names(), net.output_names()
    images = np.load("example.npy", allow_pickle=False)
    outputs = np.stack([computed(net, image, source, sink) for image in images])
    np.save("outputs.npy", outputs)
    tensors = {
        "inputs": [{"name": source, "shape": [1, *images.shape[1:]]}],
        "outputs": [{"name": sink, "shape": [1, *outputs.shape[1:]]}],
    }
    pathlib.Path("model.json").write_text(json.dumps(tensors))
    version = importlib.metadata.version
    result = {"converter": f"pnnx {version('pnnx')}", "ncnn": version("ncnn"), "weights": request["precision"]}
    pathlib.Path("result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
