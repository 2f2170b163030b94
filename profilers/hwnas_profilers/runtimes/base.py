"""What every runtime module offers: a :class:`Runtime` that opens models, and a :class:`Model` that runs them."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from hwnas_profilers.timing import BurstResult, BurstSpec, burst


@dataclass(frozen=True)
class LoadSpec:
    """What is asked for: precision, threads inside one inference, images per inference, options by name."""

    precision: str
    threads: int = 1
    batch: int = 1
    options: Dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tensor:
    """An input or output: name, shape (batch first), numpy dtype name."""

    name: str
    shape: Tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Kernel:
    """One unit the runtime really ran: its name, operation, median milliseconds, graph tensors and fused node names."""

    name: str
    op: str
    ms: float
    outputs: Tuple[str, ...] = ()
    fused: Tuple[str, ...] = ()


def example_inputs(tensors: Tuple[Tensor, ...]) -> Dict[str, np.ndarray]:
    """Return the inputs that are timed: standard normal from a fixed seed, zeros for integers."""
    generator = np.random.default_rng(0)
    arrays = {}
    for tensor in tensors:
        kind = np.dtype(tensor.dtype)
        if kind.kind == "f":
            arrays[tensor.name] = generator.standard_normal(tensor.shape).astype(kind)
        else:
            arrays[tensor.name] = np.zeros(tensor.shape, dtype=kind)
    return arrays


class Model(ABC):
    """A model ready to run.

    Attributes:
        provider: What the runtime says it runs on.
        device: The runtime's device name.
        precision: Precision it really executes in.
        inputs: Inputs in order.
        outputs: Outputs in order.
        notes: What a person should know about how it runs.
    """

    provider = ""
    device = ""
    precision = ""
    inputs: Tuple[Tensor, ...] = ()
    outputs: Tuple[Tensor, ...] = ()
    notes: Tuple[str, ...] = ()

    @abstractmethod
    def run(self, inputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Return the named outputs for named inputs."""

    @abstractmethod
    def prepare(self) -> None:
        """Bind the example inputs, so that :meth:`step` has nothing to do but run."""

    @abstractmethod
    def step(self) -> object:
        """Run once on the bound inputs; this call is what is timed."""

    @abstractmethod
    def kernels(self, runs: int) -> List[Kernel]:
        """Return what the runtime ran as one unit, in execution order, median over ``runs`` runs."""

    def verify(self) -> None:  # noqa: B027 - nothing to add where loading already checks all
        """Check what can only be seen after loading, outside the time that loading is charged.

        Raises:
            Failure: ``fallback``, when it does not run on what was asked.
        """

    def burst(self, spec: BurstSpec) -> BurstResult:
        """Time one burst; a runtime with a clock of its own (a GPU, a simulation) overrides this."""
        return burst(self.step, spec)

    def close(self) -> None:  # noqa: B027 - most runtimes free with the object
        """Free what the garbage collector does not."""


class Runtime(ABC):
    """A runtime on this device.

    Attributes:
        name: Name in a target.
        module: Import name of its package; empty if it needs none.
        packages: Names under which the package is installed, the usual one first.
        install: The exact line that installs it.
        pins_itself: The runtime moves its threads to cores of its own choice, so that the worker must not.
    """

    name = ""
    module = ""
    packages: Tuple[str, ...] = ()
    install = ""
    pins_itself = False

    def available(self) -> bool:
        """Say whether the package is there, without importing it."""
        return not self.module or importlib.util.find_spec(self.module) is not None

    def version(self) -> str:
        """Return the installed version, without importing the package; empty if not known."""
        for package in self.packages:
            try:
                return metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        return ""

    def hardware(self) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """Return identity and context of hardware besides the processor that it runs on; cheap, imports no package.

        A number cannot be carried to another identity (the model of a GPU); a context that moved (its driver) is a warning.
        """
        return {}, {}

    @abstractmethod
    def providers(self) -> Tuple[str, ...]:
        """Return what it can run on here; imports the package."""

    def start(self) -> None:
        """Import the package and let it look at the machine; called once, before the worker is pinned.

        Many runtimes remember the cores they see first and never use another one.
        """
        self.providers()

    @abstractmethod
    def load(self, path: Path, spec: LoadSpec) -> Model:
        """Open and compile a model file.

        Raises:
            Failure: It cannot run, or would not run on what was asked.
        """
