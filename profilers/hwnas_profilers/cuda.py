"""An NVIDIA GPU through the driver's own library: memory, one stream, events, graphs.

The driver API (``libcuda``) is there wherever a driver is, of one binary interface for years; runtime libraries come and go
with packages. Contexts are the primary one of a GPU, which libraries on the runtime API share.

Written against ``cuda.h`` of CUDA 13; it has not run on a GPU yet.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from hwnas_profilers.protocol import Failure

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_OUT_OF_MEMORY = 2
_BROKEN = range(700, 720)
"""Errors after which the context of this process is of no use any more: illegal addresses, failed launches and their like."""
_CAPABILITY = (75, 76)
_NON_BLOCKING = 1
_THREAD_LOCAL = 1


class CudaError(Exception):
    """A call of the driver that failed."""


class Driver:
    """The driver's library.

    Raises:
        Failure: ``load_failed``, when there is no driver, or it does not start.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise Failure(
                "load_failed", f"no NVIDIA driver here ({library} is not there): this runtime needs an NVIDIA GPU"
            ) from error
        try:
            self.call("cuInit", ctypes.c_uint(0))
        except CudaError as error:
            raise Failure("load_failed", f"the NVIDIA driver finds no GPU that it can use here ({error})") from error

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library.

        Raises:
            Failure: ``out_of_memory``.
            CudaError: It failed for another reason.
            SystemExit: The GPU cannot be used by this process any more, so that the client starts another worker.
        """
        function = getattr(self._library, name, None)
        if function is None:
            raise CudaError(f"the driver has no {name}; a newer one is needed")
        status = int(function(*arguments))
        if not status:
            return
        if status == _OUT_OF_MEMORY:
            raise Failure("out_of_memory", f"the GPU's memory is full ({name})")
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(ctypes.c_int(status), ctypes.byref(text))
        detail = f"{name}: {(text.value or b'unknown').decode()} ({status})"
        if status in _BROKEN:
            raise SystemExit(f"the GPU's context is broken, this worker ends: {detail}")
        raise CudaError(detail)

    def integer(self, name: str, *arguments: Any) -> int:
        """Call a function whose first argument takes an ``int``; returns it."""
        value = ctypes.c_int()
        self.call(name, ctypes.byref(value), *arguments)
        return value.value

    def handle(self, name: str, *arguments: Any) -> int:
        """Call a function whose first argument takes a new handle; returns it."""
        value = ctypes.c_void_p()
        self.call(name, ctypes.byref(value), *arguments)
        return value.value or 0

    def text(self, name: str, *arguments: Any) -> str:
        """Call a function that fills a buffer with text."""
        buffer = ctypes.create_string_buffer(256)
        self.call(name, buffer, ctypes.c_int(len(buffer)), *arguments)
        return buffer.value.decode("utf-8", "replace")


def gpu_hardware(library: str = LIBRARY, index: int = 0) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Return identity (model, capability) and context (driver) of a GPU; both empty where there is none."""
    try:
        driver = Driver(library)
        device = ctypes.c_int(driver.integer("cuDeviceGet", ctypes.c_int(index)))
        major, minor = (driver.integer("cuDeviceGetAttribute", ctypes.c_int(key), device) for key in _CAPABILITY)
        version = driver.integer("cuDriverGetVersion")
        identity = {"gpu_model": driver.text("cuDeviceGetName", device), "gpu_capability": f"sm{major}{minor}"}
    except (Failure, CudaError):
        return {}, {}
    return identity, {"gpu_driver": f"{version // 1000}.{version % 1000 // 10}"}


class Gpu:
    """One GPU with its primary context, current in this thread.

    Attributes:
        name: For example ``NVIDIA GeForce RTX 4090``.
        capability: For example ``sm89``.
        driver: CUDA version of the driver, for example ``13.0``.
    """

    def __init__(self, driver: Driver, index: int = 0) -> None:
        self.calls = driver
        count = driver.integer("cuDeviceGetCount")
        if not 0 <= index < count:
            raise Failure("load_failed", f"GPU {index} was asked for, the NVIDIA driver has {count} (from 0)")
        device = ctypes.c_int(driver.integer("cuDeviceGet", ctypes.c_int(index)))
        self.name = driver.text("cuDeviceGetName", device)
        self.bus_id = driver.text("cuDeviceGetPCIBusId", device)
        major, minor = (driver.integer("cuDeviceGetAttribute", ctypes.c_int(key), device) for key in _CAPABILITY)
        self.capability = f"sm{major}{minor}"
        version = driver.integer("cuDriverGetVersion")
        self.driver = f"{version // 1000}.{version % 1000 // 10}"
        self._context = driver.handle("cuDevicePrimaryCtxRetain", device)
        driver.call("cuCtxSetCurrent", ctypes.c_void_p(self._context))

    def allocate(self, size: int) -> int:
        """Return the address of ``size`` bytes of GPU memory (at least one)."""
        address = ctypes.c_uint64()
        self.calls.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self.calls.call("cuMemFree_v2", ctypes.c_uint64(address))

    def write(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the GPU."""
        source = ctypes.c_void_p(array.ctypes.data)
        self.calls.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, ctypes.c_size_t(array.nbytes))

    def read(self, address: int, array: np.ndarray) -> None:
        """Fill a contiguous array from the GPU."""
        target = ctypes.c_void_p(array.ctypes.data)
        self.calls.call("cuMemcpyDtoH_v2", target, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))

    def clocks(self) -> str:
        """Return the clock of its processors as ``nvidia-smi`` tells it now; empty where it does not."""
        query = ["nvidia-smi", "-i", self.bus_id, "--query-gpu=clocks.sm,clocks.max.sm", "--format=csv,noheader"]
        try:
            found = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ""
        return found.replace(", ", " of at most ")


class Stream:
    """A stream with the two events that time what runs on it."""

    def __init__(self, gpu: Gpu) -> None:
        self._calls = gpu.calls
        self.handle = self._calls.handle("cuStreamCreate", ctypes.c_uint(_NON_BLOCKING))
        self._events = [self._calls.handle("cuEventCreate", ctypes.c_uint(0)) for _ in range(2)]
        self._graphs: List[int] = []

    def synchronise(self) -> None:
        """Wait until all that was launched has run."""
        self._calls.call("cuStreamSynchronize", ctypes.c_void_p(self.handle))

    def elapsed_ms(self, launch: Callable[[], object]) -> float:
        """Launch something, wait for its end, and return the milliseconds the GPU took between two events around it."""
        start, stop = self._events
        stream = ctypes.c_void_p(self.handle)
        self._calls.call("cuEventRecord", ctypes.c_void_p(start), stream)
        launch()
        self._calls.call("cuEventRecord", ctypes.c_void_p(stop), stream)
        self._calls.call("cuEventSynchronize", ctypes.c_void_p(stop))
        elapsed = ctypes.c_float()
        self._calls.call("cuEventElapsedTime", ctypes.byref(elapsed), ctypes.c_void_p(start), ctypes.c_void_p(stop))
        return elapsed.value

    def capture(self, launch: Callable[[], object]) -> Callable[[], object]:
        """Record what ``launch`` does as a graph; returns what replays it.

        Raises:
            CudaError: It does something that a graph cannot hold.
        """
        stream = ctypes.c_void_p(self.handle)
        failure: Optional[Exception] = None
        self._calls.call("cuStreamBeginCapture_v2", stream, ctypes.c_int(_THREAD_LOCAL))
        try:
            launch()
        except Exception as error:
            failure = error
        graph = ctypes.c_void_p()
        self._calls.call("cuStreamEndCapture", stream, ctypes.byref(graph))
        if failure is not None or not graph.value:
            raise CudaError(f"the run cannot be recorded as a graph ({failure})") from failure
        try:
            ready = self._calls.handle("cuGraphInstantiateWithFlags", graph, ctypes.c_uint64(0))
        finally:
            self._calls.call("cuGraphDestroy", graph)
        self._graphs.append(ready)
        return lambda: self._calls.call("cuGraphLaunch", ctypes.c_void_p(ready), stream)

    def close(self) -> None:
        """Give graphs, events and the stream back."""
        for graph in self._graphs:
            self._calls.call("cuGraphExecDestroy", ctypes.c_void_p(graph))
        for event in self._events:
            self._calls.call("cuEventDestroy_v2", ctypes.c_void_p(event))
        self._calls.call("cuStreamDestroy_v2", ctypes.c_void_p(self.handle))
        self._graphs, self._events = [], []
