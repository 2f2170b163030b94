"""Preprocessing against independent definitions, batches, augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hwnas  # noqa: F401  (lets torchvision import beside a CPU torch)
from hwnas.config import DataSection
from hwnas.datasets.data import ImageData, load_data
from hwnas.datasets.preprocessing import Preprocessing, augment_batch


@pytest.fixture
def digits() -> ImageData:
    return load_data(DataSection(source="digits", image_size=8))


def antialiased_weights(size_in: int, size_out: int) -> np.ndarray:
    """Rows of the triangle filter, written from its definition: what a numpy-only verifier would use."""
    scale = size_in / size_out
    support = max(scale, 1.0)
    centres = (np.arange(size_out) + 0.5) * scale
    distance = np.abs((np.arange(size_in) + 0.5)[None, :] - centres[:, None]) / support
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def preprocess_by_definition(images: np.ndarray, plan: dict) -> np.ndarray:
    size = plan["resize"]["size"]
    weights = antialiased_weights(images.shape[-1], size)
    values = np.einsum("oh,nchw,pw->ncop", weights, images * plan["scale"], weights)
    mean, std = (np.array(plan[key])[None, :, None, None] for key in ("mean", "std"))
    return (values - mean) / std


@pytest.mark.parametrize("resolution", [8, 6, 5, 12, 16])
def test_preprocessing_can_be_done_from_its_description_alone(digits: ImageData, resolution: int) -> None:
    images = digits.validation.images[:20]
    ours = digits.preprocess(images, resolution)
    theirs = preprocess_by_definition(images.numpy(), digits.preprocessing(resolution))
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-5)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("resolution", [24, 32, 20, 40])
def test_preprocessing_is_torchvisions(resolution: int) -> None:
    from torchvision.transforms import v2

    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    reference = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize((resolution, resolution), interpolation=v2.InterpolationMode.BILINEAR, antialias=True),
            v2.Normalize(mean, std),
        ]
    )
    torch.testing.assert_close(Preprocessing(32, mean, std)(images, resolution), reference(images), atol=1e-5, rtol=0)


def test_preprocessing_leaves_its_input_alone(digits: ImageData) -> None:
    images = digits.gate.images
    before = images.clone()
    digits.preprocess(images, 8)
    assert torch.equal(images, before)


def test_training_images_are_normalised(digits: ImageData) -> None:
    values = digits.preprocess(digits.train.images, 8)
    assert float(values.mean()) == pytest.approx(0, abs=1e-4)
    assert float(values.std(correction=0)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
def test_evaluation_drops_nothing_and_keeps_the_order(digits: ImageData, batch_size: int) -> None:
    split = digits.gate
    batches = list(split.batches(batch_size, 8))
    assert torch.equal(torch.cat([labels for _, labels in batches]), split.labels)
    assert torch.equal(torch.cat([images for images, _ in batches]), digits.preprocess(split.images, 8))
    assert max(len(labels) for _, labels in batches) <= batch_size


def test_shuffled_batches_hold_every_image_once_and_follow_their_seed(digits: ImageData) -> None:
    split = digits.validation

    def epoch(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(split.batches(50, 8, shuffle_seed=seed))

    one, again, other = epoch(1), epoch(1), epoch(2)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0][0], other[0][0])
    seen = sorted(image.numpy().tobytes() for images, _ in one for image in images)
    assert seen == sorted(image.numpy().tobytes() for image in digits.preprocess(split.images, 8))


def test_a_last_batch_of_one_joins_the_one_before_it(digits: ImageData) -> None:
    indices = np.arange(9)
    assert [len(y) for _, y in digits.train.batches(4, 8, shuffle_seed=0, indices=indices)] == [4, 5]
    assert [len(y) for _, y in digits.train.batches(4, 8, indices=indices)] == [4, 4, 1]
    whole = len(digits.train)
    for batch_size in (whole - 1, whole // 2, 64, 1):
        assert digits.train.steps(batch_size) == len(list(digits.train.batches(batch_size, 8, shuffle_seed=0)))


def test_indices_choose_positions_of_the_split(digits: ImageData) -> None:
    ((images, labels),) = list(digits.test.batches(8, 8, indices=[5, 0, 5]))
    assert torch.equal(labels, digits.test.labels[[5, 0, 5]])
    assert torch.equal(images, digits.preprocess(digits.test.images[[5, 0, 5]], 8))


def shifted(image: np.ndarray, down: int, right: int, margin: int) -> np.ndarray:
    side = image.shape[-1]
    return np.pad(image, ((0, 0), (margin, margin), (margin, margin)))[:, down : down + side, right : right + side]


@pytest.mark.parametrize("augment", ["shift", "shift-flip"])
def test_augmentation_gives_shifts_and_mirrors_and_nothing_else(augment: str) -> None:
    side, margin = 16, 2
    images = torch.randint(1, 256, (200, 2, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    result = augment_batch(images, augment, torch.Generator().manual_seed(3)).numpy()
    found = []
    for before, after in zip(images.numpy(), result, strict=True):
        options = {
            (down, right, mirrored): shifted(before[:, :, ::-1] if mirrored else before, down, right, margin)
            for down in range(2 * margin + 1)
            for right in range(2 * margin + 1)
            for mirrored in (False, True)
        }
        found.append(next(key for key, value in options.items() if np.array_equal(value, after)))
    mirrored = [key[2] for key in found]
    assert {key[0] for key in found} == {key[1] for key in found} == set(range(2 * margin + 1))
    assert any(mirrored) == (augment == "shift-flip")
    assert not all(mirrored)


def test_augmentation_none_changes_nothing() -> None:
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    assert torch.equal(augment_batch(images, "none", torch.Generator()), images)


def test_augmented_batches_need_a_seed_and_follow_it(digits: ImageData) -> None:
    with pytest.raises(ValueError, match="needs shuffle_seed"):
        next(digits.train.batches(8, 8, augment="shift"))
    with pytest.raises(ValueError, match="augment='spin' must be one of"):
        next(digits.train.batches(8, 8, augment="spin", shuffle_seed=0))
    one, two = (next(digits.train.batches(8, 8, augment="shift", shuffle_seed=5)) for _ in range(2))
    assert torch.equal(one[0], two[0])


def test_joined_splits_share_the_pool(digits: ImageData) -> None:
    both = digits.train.joined(digits.validation)
    assert len(both) == len(digits.train) + len(digits.validation)
    assert torch.equal(both.labels, torch.cat([digits.train.labels, digits.validation.labels]))
    assert both.pool.data_ptr() == digits.train.pool.data_ptr()
