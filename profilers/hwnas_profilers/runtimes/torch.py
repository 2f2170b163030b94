"""PyTorch eager: runs a ``torch.export`` archive (``.pt2``); for comparison, not for devices."""

from __future__ import annotations

import json
import os
import re
import statistics
import time
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from hwnas_profilers.protocol import Failure
from hwnas_profilers.runtimes.base import Kernel, LoadSpec, Model, Runtime, Tensor, example_inputs

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


_PLAIN_MEMBER = re.compile(
    r"(data/weights/weight_\d+|data/constants/tensor_\d+|data/(weights|constants)/\w+_config\.json|models/\w+\.json"
    r"|data/sample_inputs/\w+\.pt|archive_format|archive_version|byteorder|version|\.data/\w+)"
)


def refuse_pickles(path: Path) -> None:
    """Refuse an archive of which ``torch.export.load`` would unpickle arbitrary objects.

    Weights and constants must be raw bytes. What is left, the sample inputs, torch reads with ``weights_only``, which
    :data:`os.environ` enforces from here on (torch falls back on full unpickling otherwise).

    Raises:
        Failure: ``load_failed``.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.partition("/")[2]: name for name in archive.namelist()}
            if len(members) != len(archive.namelist()):
                raise ValueError("a member stands in it twice")
            configs = [json.loads(archive.read(members[name])) for name in members if name.endswith("_config.json")]
        entries = [entry for config in configs for entry in config["config"].values()]
        pickled = [str(entry["path_name"]) for entry in entries if entry["use_pickle"]]
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise Failure("load_failed", f"{path.name} is not a torch.export archive (.pt2): {error}") from error
    foreign = [name for name in members if not _PLAIN_MEMBER.fullmatch(name)]
    foreign += [entry["path_name"] for entry in entries if not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"])]
    if pickled or foreign:
        raise Failure(
            "load_failed",
            f"{path.name} holds {(pickled + foreign)[0]!r}, which could run code when it is read; "
            "export the module again without custom objects",
        )


def _tensor(name: str, value: Any) -> Tensor:
    return Tensor(name, tuple(int(size) for size in value.shape), str(value.dtype).replace("torch.", ""))


class TorchModel(Model):
    """The graph module of an exported program, under ``inference_mode``."""

    provider = "torch eager"
    device = "CPU"

    def __init__(self, path: Path, spec: LoadSpec) -> None:
        import torch

        self._torch = torch
        self._threads = spec.threads
        torch.set_num_threads(spec.threads)
        refuse_pickles(path)
        try:
            program = torch.export.load(str(path))
            self._module = program.module()
        except Exception as error:
            raise Failure("load_failed", f"{type(error).__name__}: {error}"[:2000]) from error
        self._check_precision(program, spec.precision)
        self.inputs, self.outputs = self._signature(program)
        self._arguments: List[Any] = []

    def _check_precision(self, program: Any, wanted: str) -> None:
        kinds = sorted({str(value.dtype).replace("torch.", "") for value in program.parameters()})
        found = sorted({_PRECISIONS.get(kind, kind) for kind in kinds}) or ["fp32"]
        if found != [wanted]:
            raise Failure("fallback", f"{wanted} was asked for, the program's parameters are {', '.join(found)}")
        self.precision = wanted

    @staticmethod
    def _signature(program: Any) -> Tuple[Tuple[Tensor, ...], Tuple[Tensor, ...]]:
        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        inputs = tuple(_tensor(name, values[name]) for name in program.graph_signature.user_inputs)
        outputs = tuple(_tensor(name, values[name]) for name in program.graph_signature.user_outputs)
        return inputs, outputs

    def _to_arguments(self, arrays: Dict[str, np.ndarray]) -> List[Any]:
        return [self._torch.from_numpy(arrays[tensor.name].copy()) for tensor in self.inputs]

    def run(self, inputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Return the named outputs."""
        self._torch.set_num_threads(self._threads)
        with self._torch.inference_mode():
            results = self._module(*self._to_arguments(inputs))
        listed = results if isinstance(results, (tuple, list)) else [results]
        return {tensor.name: value.numpy() for tensor, value in zip(self.outputs, listed)}

    def prepare(self) -> None:
        """Make the input tensors and set the threads, which are global to the process."""
        self._torch.set_num_threads(self._threads)
        if not self._arguments:
            self._arguments = self._to_arguments(example_inputs(self.inputs))

    def step(self) -> object:
        """Run once."""
        with self._torch.inference_mode():
            return self._module(*self._arguments)

    def kernels(self, runs: int) -> List[Kernel]:
        """Time every call of the exported graph by itself; eager fuses nothing."""
        self.prepare()
        times: Dict[str, List[float]] = {}
        found: Dict[str, Any] = {}

        class Timer(self._torch.fx.Interpreter):  # type: ignore[name-defined,misc]
            def run_node(self, node: Any) -> Any:
                start = time.perf_counter_ns()
                value = super().run_node(node)
                if node.op in ("call_function", "call_module", "call_method"):
                    found[node.name] = node
                    times.setdefault(node.name, []).append((time.perf_counter_ns() - start) / 1e6)
                return value

        with self._torch.inference_mode():
            for _ in range(runs):
                Timer(self._module).run(*self._arguments)
        return [
            Kernel(name, str(node.target), statistics.median(times[name]), _module_path(node), (name,))
            for name, node in found.items()
        ]


def _module_path(node: Any) -> Tuple[str, ...]:
    """Return the path of the module a node comes from, as the exporter noted it."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return (path,) if path else ()


class Torch(Runtime):
    """PyTorch, eager."""

    name = "torch"
    module = "torch"
    packages = ("torch",)
    install = "pip install torch"

    def providers(self) -> Tuple[str, ...]:
        """Return ``torch eager``."""
        return ("torch eager",)

    def load(self, path: Path, spec: LoadSpec) -> Model:
        """Open a ``torch.export`` archive."""
        return TorchModel(path, spec)


RUNTIME = Torch()
