"""One split: rows of the pool of images, and the batches a network reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwnas.datasets.preprocessing import Preprocessing, augment_batch

Indices = Tensor | NDArray[np.int64] | Sequence[int]


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows of the pool.

    Attributes:
        name: ``train``, ``validation``, ``gate``, ``test`` or a joined name.
        pool: All images of the data set, uint8 ``[N, c, s, s]``, often memory-mapped.
        pool_labels: Their classes, int64 ``[N]``.
        rows: The rows of this split, int64 ``[n]``.
        preprocess: Bytes to network input.
    """

    name: str
    pool: Tensor
    pool_labels: Tensor
    rows: Tensor
    preprocess: Preprocessing

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def images(self) -> Tensor:
        """All images of the split, uint8 ``[n, c, s, s]``; a copy in memory, see :meth:`take` for a few of them."""
        return self.pool[self.rows]

    @cached_property
    def labels(self) -> Tensor:
        """Class of each image, int64 ``[n]``."""
        return self.pool_labels[self.rows]

    def take(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Return images (uint8 ``[b, c, s, s]``) and labels of these positions of the split."""
        rows = self.rows[torch.as_tensor(indices, dtype=torch.int64)]
        return self.pool[rows], self.pool_labels[rows]

    def joined(self, other: Split) -> Split:
        """Return the split that holds this one's images and then ``other``'s."""
        rows = torch.cat([self.rows, other.rows])
        return Split(f"{self.name}+{other.name}", self.pool, self.pool_labels, rows, self.preprocess)

    def steps(self, batch_size: int, *, shuffled: bool = True) -> int:
        """Return how many batches :meth:`batches` gives for the whole split."""
        return len(_bounds(len(self), batch_size, merge=shuffled))

    def batches(
        self,
        batch_size: int,
        resolution: int,
        *,
        augment: str = "none",
        shuffle_seed: int | None = None,
        indices: Indices | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield preprocessed batches; every image comes exactly once.

        Args:
            batch_size: Images in a batch. The last batch may be smaller; shuffled, a last batch of one image joins the
                one before it (batch normalisation cannot train on one).
            resolution: Side the network reads, pixels.
            augment: ``none``, ``shift`` or ``shift-flip``; the last two need ``shuffle_seed``.
            shuffle_seed: Seeds order and augmentation; None: stored order.
            indices: Only these positions of the split.

        Yields:
            float32 ``[b, c, resolution, resolution]`` channels last, and int64 ``[b]``.

        Raises:
            ValueError: Unknown ``augment``, or augmentation without a seed.
        """
        if augment != "none" and shuffle_seed is None:
            raise ValueError(f"augment={augment!r} needs shuffle_seed")
        order = torch.arange(len(self)) if indices is None else torch.as_tensor(indices, dtype=torch.int64)
        generator = torch.Generator()
        if shuffle_seed is not None:
            generator.manual_seed(shuffle_seed)
            order = order[torch.randperm(len(order), generator=generator)]
        for start, stop in _bounds(len(order), batch_size, merge=shuffle_seed is not None):
            images, labels = self.take(order[start:stop])
            yield self.preprocess(augment_batch(images, augment, generator), resolution), labels


def _bounds(count: int, batch_size: int, *, merge: bool) -> list[tuple[int, int]]:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    starts = list(range(0, count, batch_size))
    if merge and len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))
