"""What a kernel asks of the hardware: terms that prices are linear in, and features that trees read.

Terms after the roofline (Williams et al. 2009): launches, multiply-accumulates, the same with channels rounded up to vector
widths, windows unrolled into a matrix, traffic, the larger of work and traffic, and work on what near memory cannot hold,
each with a price of its own per class of kernels.
"""

from __future__ import annotations

import numpy as np

from hwnas.kernels.batch import KINDS, KernelBatch
from hwnas.latency.statistics import FloatArray
from hwnas.spaces.base import IntArray

TERMS = (
    "launch",
    "macs",
    "padded8",
    "padded16",
    "unrolled",
    "read",
    "written",
    "weights",
    "bound4",
    "bound16",
    "bound64",
    "far_read",
    "far_written",
    "cold_weights",
    "cold_traffic",
    "epilogue",
    "gates",
)
"""Columns of :func:`terms`."""

NEAR = (2**16, 2**17, 2**18, 2**19, 2**20)
"""Sizes, in elements, that a device's near memory may have: a kernel with more to read or write pays for its work anew."""

NEAR_FINE = (*NEAR, 2**21, 2**22)
"""The same where times of kernels are known; sums of networks do not tell the largest ones."""

WINDOWS = {"conv": 1, "conv3": 9, "conv5": 25, "conv_large": np.inf}
"""Class of a full convolution -> largest window that belongs to it."""

CLASSES = (
    *KINDS,
    *("conv3", "conv5", "conv_large", "grouped"),
    *(f"{name}{shape}" for name in WINDOWS for shape in ("_thin", "_odd", "_uneven")),
    *("depthwise_odd", "depthwise_uneven", "depthwise5", "depthwise5_uneven", "grouped_odd"),
)
"""Classes with prices of their own: the kinds, and convolutions (``conv``: 1 x 1) by window and grouping.

Those behind ``grouped`` are told apart only where there are kernels enough: ``thin`` reads fewer than 16 channels, ``odd`` numbers of
channels that are no multiples of 4 (16 per group, where there are groups), ``uneven`` reads or writes numbers that are no multiples of
16, ``depthwise5`` has windows above 3 x 3; runtimes compute those by other code.
"""

_BLOCK = 16
_MANY = 8
"""Positions of a product with a weight from which on it counts as a convolution."""
_COLD = 2.0
"""Near memories that a network must exceed to find its data gone when it runs again."""
_BALANCES = (4.0, 16.0, 64.0)
"""Multiply-accumulates in the time of one element of traffic, where a kernel may turn from one bound to the other."""

FEATURES = (
    "class",
    "macs",
    "read",
    "written",
    "weights",
    "in_channels",
    "out_channels",
    "in_pixels",
    "out_pixels",
    "window",
    "stride",
    "grouped",
    "epilogue",
    "gates",
    "macs_per_read",
    "macs_per_written",
    "depth",
    *(f"{side}_waste{width}" for width in (4, 8, 16, 32) for side in ("in", "out")),
    *(f"{side}_odd{width}" for width in (2, 4, 8) for side in ("in", "out")),
)
"""Columns of :func:`features`."""

GROWING = ("macs", "read", "written", "weights", "epilogue", "gates")
"""Features in which the trees' corrections are monotone; others, such as channels and intensities, are free."""


def _padded(channels: FloatArray, width: int) -> FloatArray:
    return np.asarray(np.ceil(channels / width) * width / channels)


def classes(batch: KernelBatch, fine: bool = False) -> IntArray:
    """Return the class of each kernel as an index into :data:`CLASSES`, ``[kernels]``; those behind ``grouped`` only if ``fine``."""
    found = batch.kinds.copy()
    window, channels, groups = batch["window"], batch["in_channels"], batch["groups"]
    # the product of a weight with many positions is computed, and paid for, as a convolution of one pixel is
    many = (batch.kinds == KINDS.index("linear")) & (batch["out_pixels"] >= _MANY)
    conv = many | (batch.kinds == KINDS.index("conv"))
    low = 0.0
    for name, high in WINDOWS.items():
        own = conv & (window > low) & (window <= high)
        found[own] = CLASSES.index(name)
        low = high
        if not fine:
            continue
        found[own & ((channels % _BLOCK != 0) | (batch["out_channels"] % _BLOCK != 0))] = CLASSES.index(
            f"{name}_uneven"
        )
        found[own & (channels % 4 != 0)] = CLASSES.index(f"{name}_odd")
        found[own & (channels < _BLOCK)] = CLASSES.index(f"{name}_thin")
    if fine:
        single = batch.kinds == KINDS.index("depthwise")
        for name, own in (
            ("depthwise", single & (window <= WINDOWS["conv3"])),
            ("depthwise5", single & (window > WINDOWS["conv3"])),
        ):
            found[own] = CLASSES.index(name)
            found[own & (channels % _BLOCK != 0)] = CLASSES.index(f"{name}_uneven")
        found[single & (channels % 4 != 0)] = CLASSES.index("depthwise_odd")
    grouped = conv & (groups > 1)
    found[grouped] = CLASSES.index("grouped")
    if fine:
        uneven = (channels / groups % _BLOCK != 0) | (batch["out_channels"] / groups % _BLOCK != 0)
        found[grouped & uneven] = CLASSES.index("grouped_odd")
    return found


def working_set(batch: KernelBatch) -> FloatArray:
    """Return the elements that the whole network of each kernel touches, ``[kernels]``: its weights and what it writes.

    A network that does not fit into near memory reads its weights anew in every inference.
    """
    return np.asarray(batch.sums(batch["weights"] + batch["written"])[batch.owner])


def terms(batch: KernelBatch, near: float, fine: bool = False) -> FloatArray:
    """Return what each kernel's price is linear in, ``[kernels, terms]``: counts and elements; ``cold`` ones only if ``fine``.

    Args:
        batch: The kernels.
        near: Size of the near memory in elements, for ``far_read``, ``far_written`` and ``cold`` terms.
        fine: Whether there is evidence enough to tell all terms apart.
    """
    macs, read, written = batch["macs"], batch["read"], batch["written"]
    traffic = read + written + batch["weights"]
    cold = np.maximum(0.0, 1.0 - _COLD * near / working_set(batch)) if fine else np.zeros(len(macs))
    single = batch.kinds == KINDS.index("depthwise")

    def padded(width: int) -> FloatArray:
        rows = np.where(single, 1.0, _padded(batch["in_channels"], width))
        return macs * rows * _padded(batch["out_channels"], width)

    return np.column_stack(
        [
            np.ones(len(macs)),
            macs,
            padded(8),
            padded(16),
            np.where(batch["window"] > 1, batch["in_channels"] * batch["window"] * batch["out_pixels"], 0.0),
            read,
            written,
            batch["weights"],
            *(np.maximum(macs, balance * traffic) for balance in _BALANCES),
            np.where(read > near, macs, 0.0),
            np.where(written > near, macs, 0.0),
            cold * batch["weights"],
            cold * (read + written),
            batch["epilogue"] * written,
            batch["gates"] * written,
        ]
    )


def sums_by_class(batch: KernelBatch, work: FloatArray) -> FloatArray:
    """Return each network's sums of ``work [kernels, terms]`` over its kernels of each class, ``[n, classes, terms]``."""
    sums = np.zeros((len(batch), len(CLASSES), work.shape[1]))
    np.add.at(sums, (batch.owner, classes(batch)), work)
    return sums


def features(batch: KernelBatch) -> FloatArray:
    """Return what trees read of each kernel, ``[kernels, features]``; counts as logarithms."""

    def log(name: str) -> FloatArray:
        return np.asarray(np.log2(1.0 + batch[name]))

    channels = batch["in_channels"], batch["out_channels"]
    columns = [
        classes(batch).astype(np.float64),
        *(log(name) for name in ("macs", "read", "written", "weights")),
        *channels,
        batch["in_pixels"],
        batch["out_pixels"],
        batch["window"],
        batch["stride"],
        (batch["groups"] > 1).astype(np.float64),
        batch["epilogue"],
        batch["gates"],
        log("macs") - log("read"),
        log("macs") - log("written"),
        np.log2(batch["in_channels"] * batch["window"]),
        *(_padded(side, width) for width in (4, 8, 16, 32) for side in channels),
        *((side % width != 0).astype(np.float64) for width in (2, 4, 8) for side in channels),
    ]
    return np.column_stack(columns)
