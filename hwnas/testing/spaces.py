"""The contract of a search space, as a test class for authors of spaces.

Use it so::

    from hwnas.testing.spaces import SpaceContract

    class TestMySpace(SpaceContract):
        space_type = MySpace
        settings = {"classes": 10}
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from hwnas.backends.torch_graph import GraphModule
from hwnas.errors import SpaceError
from hwnas.spaces.base import Architecture, IntArray, SearchSpace, unique_rows
from hwnas.spaces.graph import LayerGraph


def shapes_in_torch(graph: LayerGraph) -> dict[str, tuple[int, ...]]:
    """Return layer name -> shape of what torch computes there for one image; the input is left out."""
    module = GraphModule(graph).eval()
    found: dict[str, tuple[int, ...]] = {}
    for layer in graph.layers[1:]:
        module.get_submodule(layer.name).register_forward_hook(
            lambda _, inputs, output, name=layer.name: found.update({name: tuple(output.shape[1:])})
        )
    with torch.no_grad():
        module(torch.zeros(1, *graph.input_shape))
    return found


class SpaceContract:
    """What every space has to keep; inherit from it and set ``space_type``."""

    space_type: ClassVar[type[SearchSpace[Any]]]
    settings: ClassVar[dict[str, Any]] = {}
    """Settings to try the space with: networks small enough to be run a few times."""
    bounded: ClassVar[bool] = True
    """Whether no network has fewer multiply-accumulates than the smallest one, and none more than the largest."""

    @pytest.fixture
    def space(self) -> SearchSpace[Any]:
        """Return the space under test."""
        return self.space_type(**self.settings)

    @pytest.fixture
    def encodings(self, space: SearchSpace[Any]) -> IntArray:
        """Return sampled encodings, ``[300, n_genes]``."""
        return space.sample(np.random.default_rng(0), 300)

    def some(self, space: SearchSpace[Any], encodings: IntArray, count: int = 10) -> list[Architecture]:
        """Return the smallest and the largest architecture, and some of those sampled."""
        return [space.smallest, space.largest, *(space.decode(row) for row in encodings[:count])]

    def test_settings_make_the_space_again(self, space: SearchSpace[Any]) -> None:
        """Settings are plain JSON data; the space made from them is the same one."""
        again = self.space_type(**json.loads(json.dumps(space.settings(), allow_nan=False)))
        assert space.name
        assert again.settings() == space.settings()
        assert again.digest == space.digest == self.space_type(**self.settings).digest

    def test_bounds_are_those_of_named_genes(self, space: SearchSpace[Any]) -> None:
        """Each gene has a name of its own and an integer range; what is handed out cannot change it."""
        assert len(set(space.gene_names)) == space.n_genes == len(space.gene_names)
        lower, upper = space.lower, space.upper
        assert lower.shape == upper.shape == (space.n_genes,)
        assert lower.dtype == upper.dtype == np.int64
        assert (lower <= upper).all()
        lower += 1
        upper += 1
        assert np.array_equal(space.lower, lower - 1)
        assert np.array_equal(space.upper, upper - 1)

    def test_samples_are_canonical_and_differ(self, space: SearchSpace[Any], encodings: IntArray) -> None:
        """Sampled encodings are canonical, depend on the generator alone, and take different values in every gene."""
        assert encodings.shape == (300, space.n_genes)
        assert encodings.dtype == np.int64
        space.check_bounds(encodings)
        assert np.array_equal(space.repair(encodings), encodings)
        assert np.array_equal(space.sample(np.random.default_rng(0), 300), encodings)
        assert not np.array_equal(space.sample(np.random.default_rng(1), 300), encodings)
        assert ((np.ptp(encodings, axis=0) > 0) == (space.lower < space.upper)).all()

    def test_encodings_come_back(self, space: SearchSpace[Any], encodings: IntArray) -> None:
        """Decoded and encoded again, canonical encodings are the same; so are architectures written as JSON."""
        ends = np.array([space.encode(space.smallest), space.encode(space.largest)])
        for row in (*ends, *encodings):
            architecture = space.decode(row)
            assert architecture.encodable
            assert np.array_equal(space.encode(architecture), row)
            again = space.from_dict(json.loads(json.dumps(architecture.as_dict(), allow_nan=False)))
            assert again == architecture
            assert hash(again) == hash(architecture)

    def test_other_encodings_are_other_architectures(self, space: SearchSpace[Any], encodings: IntArray) -> None:
        """No two canonical encodings stand for one architecture or have one id."""
        rows = unique_rows(encodings)
        assert len({space.decode(row) for row in rows}) == len(rows)
        assert len({space.id_of(row) for row in rows}) == len(rows)

    def test_repair_is_idempotent_and_within_the_bounds(self, space: SearchSpace[Any]) -> None:
        """Any integers are repaired, each row by itself, into what is canonical, and stay what they are after that."""
        rng = np.random.default_rng(2)
        width = (space.upper - space.lower) // 2 + 2
        raw = rng.integers(space.lower - width, space.upper + width + 1, size=(200, space.n_genes))
        given = raw.copy()
        repaired = space.repair(raw)
        assert np.array_equal(raw, given)
        space.check_bounds(repaired)
        assert np.array_equal(space.repair(repaired), repaired)
        assert np.array_equal(np.vstack([space.repair(row[None]) for row in raw]), repaired)
        for row in repaired:
            assert np.array_equal(space.encode(space.decode(row)), row)

    def test_what_is_not_canonical_means_its_canonical_form(self, space: SearchSpace[Any]) -> None:
        """An encoding within the bounds decodes to the same architecture as what repair makes of it."""
        raw = np.random.default_rng(3).integers(space.lower, space.upper + 1, size=(200, space.n_genes))
        for row, repaired in zip(raw, space.repair(raw), strict=True):
            assert space.decode(row) == space.decode(repaired)

    def test_what_is_outside_is_refused(self, space: SearchSpace[Any]) -> None:
        """A gene below or above its bounds is named, and so is a wrong length."""
        for index, name in enumerate(space.gene_names):
            for row, value in ((space.lower, space.lower[index] - 1), (space.upper, space.upper[index] + 1)):
                row[index] = value
                with pytest.raises(SpaceError, match=name.replace(".", r"\.")):
                    space.decode(row)
        with pytest.raises(SpaceError, match=f"{space.n_genes} genes, not {space.n_genes + 1}"):
            space.decode(np.append(space.lower, 0))

    def test_an_unknown_setting_is_refused(self, space: SearchSpace[Any]) -> None:
        """A setting that the space does not have is named."""
        with pytest.raises(SpaceError, match="no_such_setting"):
            self.space_type(**{**self.settings, "no_such_setting": 1})

    def test_layers_have_the_shapes_that_torch_computes(self, space: SearchSpace[Any], encodings: IntArray) -> None:
        """The network of a graph runs in torch, and each layer has the shape that the graph says; equal ones are equal."""
        for architecture in self.some(space, encodings):
            graph = space.graph(architecture)
            assert graph == space.graph(architecture)
            assert graph.layers[0].op == "input"
            assert shapes_in_torch(graph) == {layer.name: layer.shape for layer in graph.layers[1:]}

    def test_blocks_cover_the_layers(self, space: SearchSpace[Any], encodings: IntArray) -> None:
        """Blocks are those of the layers, in order; a layer's name begins with that of its block."""
        for architecture in self.some(space, encodings, 50):
            layers = space.graph(architecture).layers
            names = [block.name for block in space.blocks(architecture)]
            assert list(dict.fromkeys(layer.block for layer in layers)) == names
            assert all(layer.name.startswith(f"{layer.block}.") for layer in layers[1:])

    def test_equal_keys_are_equal_layers(self, space: SearchSpace[Any], encodings: IntArray) -> None:
        """Blocks of one key hold the same operations of the same shapes, in whichever network."""
        seen: dict[str, tuple[object, ...]] = {}
        for architecture in self.some(space, encodings, 50):
            graph = space.graph(architecture)
            for block in space.blocks(architecture):
                found = tuple(
                    (layer.op, layer.shape, layer.kernel, layer.stride, layer.groups, layer.in_channels)
                    for layer in graph.layers
                    if layer.block == block.name and layer.op != "input"
                )
                assert seen.setdefault(block.key, found) == found

    def test_smallest_and_largest_bound_the_work(self, space: SearchSpace[Any], encodings: IntArray) -> None:
        """The smallest network has no more multiply-accumulates than the largest; where it is promised, they bound the others."""
        low, high = space.graph(space.smallest).macs, space.graph(space.largest).macs
        assert low <= high
        if self.bounded:
            assert all(
                low <= space.graph(architecture).macs <= high for architecture in self.some(space, encodings, 50)
            )
