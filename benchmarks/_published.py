"""Latencies that others published, as benchmarks read them: networks, what each asks of the hardware, what was measured.

Where networks are points of a search space (NAS-Bench-201, FBNet, OFA) that space is written as a user of hwnas would write
an own one, so that the product's path from encodings to latencies is the one that is judged. Where they are not
(nn-Meter's ten families; HAT, of which only averages over layers are published) networks are lists of kernels.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kernel_model_accuracy import kernel_of, kernels_of
from transfer_accuracy import EDGES, OPERATIONS, live_edges, parse

from hwnas.errors import SpaceError
from hwnas.kernels.batch import Kernel, KernelBatch
from hwnas.kernels.physics import CLASSES, NEAR, classes, terms
from hwnas.latency.features import FeatureExtractor
from hwnas.latency.indexing import ABSENT
from hwnas.latency.statistics import FloatArray
from hwnas.spaces.base import Architecture, Block, IntArray, SearchSpace
from hwnas.spaces.graph import Layer, LayerGraph
from hwnas.spaces.mobilenetv3 import MobileNetV3Space

KINDS = {
    **dict.fromkeys(("relu", "hswish", "hsigmoid", "sigmoid", "swish"), "elementwise"),
    **{"batch_norm": "norm", "add": "add", "mul": "mul", "shuffle": "transpose"},
    **{"avg_pool": "avg_pool", "max_pool": "max_pool", "global_pool": "global_pool"},
}
"""Operation of a layer graph -> kind of kernel; convolutions and linear layers have constructors of their own."""

EPILOGUES = ("batch_norm", "relu", "hswish", "hsigmoid", "sigmoid", "swish", "add")
"""Operations that a compiler joins to the convolution before them."""


@dataclass(frozen=True)
class Choices(Architecture):
    """One operation per gene."""

    codes: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"codes": list(self.codes)}


class Writer:
    """Collects the layers of a network of convolutions as an eager runtime runs them: batch normalisation is a kernel."""

    def __init__(self, channels: int, side: int, block: str) -> None:
        self.layers = [Layer("input", "input", (), (channels, side, side), block)]
        self.block = block

    def add(self, op: str, inputs: tuple[str, ...], shape: tuple[int, ...], **fields: Any) -> str:
        """Add a layer to the current block; returns its name."""
        name = f"{self.block}.{op}{len(self.layers)}"
        self.layers.append(Layer(name, op, inputs, shape, self.block, **fields))
        return name

    def conv(
        self, source: str, channels: tuple[int, int], side: int, window: int = 1, *, stride: int = 1, groups: int = 1
    ) -> str:
        """Add a convolution of ``channels`` (in, out) and its batch normalisation; ``side`` is that of its output."""
        shape = (channels[1], side, side)
        fields = {"kernel": window, "stride": stride, "groups": groups, "in_channels": channels[0], "bias": False}
        return self.add("batch_norm", (self.add("conv", (source,), shape, **fields),), shape)

    def head(self, source: str, channels: int, side: int, classes: int) -> str:
        """Add activation, pooling and classifier."""
        source = self.add("relu", (source,), (channels, side, side))
        source = self.add("flatten", (self.add("global_pool", (source,), (channels, 1, 1)),), (channels,))
        return self.add("linear", (source,), (classes,), in_channels=channels)


class GeneSpace(SearchSpace[Choices]):
    """A space of which every combination of operations is a network."""

    operations: int
    cheapest: int
    dearest: int

    def settings(self) -> dict[str, Any]:
        """Return what the space was made from."""
        return {}

    @property
    def lower(self) -> IntArray:
        """Zeros."""
        return np.zeros(self.n_genes, dtype=np.int64)

    @property
    def upper(self) -> IntArray:
        """The last operation of each gene."""
        return np.full(self.n_genes, self.operations - 1, dtype=np.int64)

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """Draw uniformly."""
        return rng.integers(0, self.operations, size=(count, self.n_genes), dtype=np.int64)

    def repair(self, encodings: IntArray) -> IntArray:
        """Return the encodings: each is canonical."""
        return np.atleast_2d(np.asarray(encodings, dtype=np.int64))

    def encode(self, architecture: Choices) -> IntArray:
        """Return the codes."""
        return np.array(architecture.codes, dtype=np.int64)

    def decode(self, encoding: IntArray) -> Choices:
        """Return the architecture of an encoding."""
        self.check_bounds(encoding)
        return Choices(tuple(int(code) for code in np.ravel(encoding)))

    def from_dict(self, value: dict[str, Any]) -> Choices:
        """Read what :meth:`Choices.as_dict` gave."""
        try:
            return self.decode(np.array(value["codes"], dtype=np.int64))
        except (KeyError, TypeError, ValueError) as error:
            raise SpaceError(f"an architecture of {self.name} needs codes ({error!r}).") from error

    @abstractmethod
    def write(self, codes: tuple[int, ...]) -> tuple[list[Layer], dict[str, str]]:
        """Return the layers of a network, and the key of each block."""

    def __init__(self) -> None:
        self._blocks: dict[Choices, tuple[Block, ...]] = {}

    def blocks(self, architecture: Choices) -> tuple[Block, ...]:
        """Return the blocks that hold layers."""
        if architecture not in self._blocks:
            layers, keys = self.write(architecture.codes)
            names = dict.fromkeys(layer.block for layer in layers)
            self._blocks[architecture] = tuple(Block(name, keys[name]) for name in names)
        return self._blocks[architecture]

    def graph(self, architecture: Choices) -> LayerGraph:
        """Return the layers."""
        return LayerGraph(tuple(self.write(architecture.codes)[0]))

    @property
    def smallest(self) -> Choices:
        """The cheapest operation everywhere."""
        return Choices((self.cheapest,) * self.n_genes)

    @property
    def largest(self) -> Choices:
        """The dearest operation everywhere."""
        return Choices((self.dearest,) * self.n_genes)


def needed_edges(codes: Sequence[int]) -> list[bool]:
    """Return which operations of a cell its output needs."""
    needed = {3}
    for (start, end), code in sorted(zip(EDGES, codes, strict=True), key=lambda entry: -entry[0][1]):
        if code and end in needed:
            needed.add(start)
    return [bool(code) and end in needed for (_, end), code in zip(EDGES, codes, strict=True)]


class NasBench201Space(GeneSpace):
    """Cells of NAS-Bench-201 (Dong and Yang, ICLR 2020): three stages of five equal cells at 32 x 32 pixels.

    A block is one edge of the five cells of a stage.

    Args:
        compiled: Whether the runtime leaves out what the output does not need; it computes convolutions of zeros.
    """

    name = "nasbench201"
    operations, cheapest, dearest = len(OPERATIONS), OPERATIONS.index("skip_connect"), OPERATIONS.index("nor_conv_3x3")
    gene_names = tuple(f"edge{start}{end}" for start, end in EDGES)

    def __init__(self, compiled: bool = False) -> None:
        super().__init__()
        self.compiled = compiled

    def settings(self) -> dict[str, Any]:
        """Return what the space was made from."""
        return {"compiled": self.compiled}

    def write(self, codes: tuple[int, ...]) -> tuple[list[Layer], dict[str, str]]:
        """Return the layers of a network, and the key of each block."""
        live = needed_edges(codes) if self.compiled else [True] * len(EDGES)
        writer = Writer(3, 32, "stem")
        keys = {"stem": "stem", "head": "head"}
        channels, side = 16, 32
        source = writer.conv("input", (3, channels), side, 3)
        for stage in range(3):
            if stage:
                writer.block = f"reduction{stage}"
                keys[writer.block] = f"reduction:in={channels},side={side}"
                source = self._reduction(writer, source, channels, side // 2)
                channels, side = 2 * channels, side // 2
            for _ in range(5):
                source = self._cell(writer, source, codes, live, stage, (channels, side, side))
            size = f"channels={channels},side={side}"
            for edge, code in enumerate(codes):
                keys[f"stages.{stage}.{edge}"] = f"{OPERATIONS[code]}:{size}"
            terms_of = [sum(on for on, (_, end) in zip(live, EDGES, strict=True) if end == node) for node in (2, 3)]
            keys[f"sums.{stage}"] = f"sums:{terms_of},{size}"
        writer.block = "head"
        writer.head(source, channels, side, 10)
        return writer.layers, keys

    @staticmethod
    def _reduction(writer: Writer, source: str, channels: int, side: int) -> str:
        shape = (2 * channels, side, side)
        first = writer.conv(source, (channels, 2 * channels), side, 3, stride=2)
        second = writer.conv(writer.add("relu", (first,), shape), (2 * channels, 2 * channels), side, 3)
        pooled = writer.add("avg_pool", (source,), (channels, side, side), kernel=2, stride=2)
        return writer.add("add", (second, writer.conv(pooled, (channels, 2 * channels), side)), shape)

    @staticmethod
    def _cell(
        writer: Writer,
        source: str,
        codes: tuple[int, ...],
        live: Sequence[bool],
        stage: int,
        shape: tuple[int, int, int],
    ) -> str:
        nodes = {0: source}
        for end in (1, 2, 3):
            found = []
            for edge, (start, last) in enumerate(EDGES):
                if last != end or not live[edge]:
                    continue
                writer.block, operation = f"stages.{stage}.{edge}", OPERATIONS[codes[edge]]
                name = nodes.get(start, source)  # zeros of the same shape, where nothing leads to a node
                if operation == "none":
                    name = writer.add("mul", (name,), shape)
                elif operation == "avg_pool_3x3":
                    name = writer.add("avg_pool", (name,), shape, kernel=3)
                elif operation != "skip_connect":
                    window = 3 if operation == "nor_conv_3x3" else 1
                    name = writer.conv(writer.add("relu", (name,), shape), (shape[0], shape[0]), shape[1], window)
                found.append(name)
            if found:
                writer.block = f"sums.{stage}"
                for other in found[1:]:
                    found[0] = writer.add("add", (found[0], other), shape)
                nodes[end] = found[0]
        return nodes.get(3, source)


class FbNetSpace(GeneSpace):
    """FBNet (Wu et al., CVPR 2019) as HW-NAS-Bench runs it on 32 x 32 pixels: 22 layers, nine operations each."""

    name = "fbnet"
    operations, cheapest, dearest = 9, 8, 7
    _OPERATIONS = ((3, 1, 1), (3, 1, 2), (3, 3, 1), (3, 6, 1), (5, 1, 1), (5, 1, 2), (5, 3, 1), (5, 6, 1))
    """Window, expansion and groups of each operation but the last, which skips the layer."""
    _STAGES = ((16, 1, 1), (24, 4, 1), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))
    """Channels, layers and stride of each stage."""
    gene_names = tuple(f"stages.{stage}.{layer}" for stage, (_, n, _) in enumerate(_STAGES) for layer in range(n))

    def write(self, codes: tuple[int, ...]) -> tuple[list[Layer], dict[str, str]]:
        """Return the layers of a network, and the key of each block."""
        writer, keys = Writer(3, 32, "stem"), {"stem": "stem", "head": "head"}
        channels, side, genes = 16, 32, iter(codes)
        source = writer.add("relu", (writer.conv("input", (3, channels), side, 3),), (channels, side, side))
        for stage, (width, layers, first) in enumerate(self._STAGES):
            for layer in range(layers):
                stride, code = first if layer == 0 else 1, next(genes)
                writer.block = f"stages.{stage}.{layer}"
                keys[writer.block] = f"op={code},in={channels},out={width},side={side},stride={stride}"
                source = self._layer(writer, source, code, (channels, width), (side, stride))
                channels, side = width, side // stride
        writer.block = "head"
        writer.head(writer.conv(source, (channels, 1504), side), 1504, side, 100)
        return writer.layers, keys

    def _layer(self, writer: Writer, source: str, code: int, channels: tuple[int, int], size: tuple[int, int]) -> str:
        (width, out), (side, stride) = channels, size
        after, same = side // stride, width == out and stride == 1
        if code == len(self._OPERATIONS):
            if same:
                return source
            return writer.add("relu", (writer.conv(source, channels, after, stride=stride),), (out, after, after))
        window, expansion, groups = self._OPERATIONS[code]
        middle = width * expansion
        name = writer.conv(source, (width, middle), side, groups=groups)
        name = writer.add("relu", (name,), (middle, side, side))
        if groups > 1:
            name = writer.add("shuffle", (name,), (middle, side, side), groups=groups)
        name = writer.conv(name, (middle, middle), after, window, stride=stride, groups=middle)
        name = writer.add("relu", (name,), (middle, after, after))
        name = writer.conv(name, (middle, out), after, groups=groups)
        return writer.add("add", (name, source), (out, after, after)) if same else name


def kernel_of_layer(layer: Layer, elements: dict[str, int]) -> Kernel | None:
    """Return the kernel that a layer alone is; None if it computes nothing. ``elements``: what layers of its block write."""
    pixels = layer.elements // layer.shape[0]
    if layer.op == "conv":
        channels = (layer.in_channels, layer.shape[0])
        sizes = (pixels * layer.stride**2, pixels)
        return Kernel.conv(channels, sizes, layer.kernel**2, stride=layer.stride, groups=layer.groups)
    if layer.op == "linear":
        return Kernel.linear(layer.in_channels, layer.shape[0])
    if layer.op not in KINDS:
        return None
    read = sum(elements.get(name, layer.elements * layer.stride**2) for name in layer.inputs)
    return Kernel(
        kind=KINDS[layer.op],
        read=float(read),
        written=float(layer.elements),
        in_channels=layer.shape[0],
        out_channels=layer.shape[0],
        in_pixels=max(read // layer.shape[0], 1),
        out_pixels=pixels,
        window=layer.kernel**2,
        stride=layer.stride,
    )


def kernels_of_layers(layers: Sequence[Layer], fuse: bool) -> list[Kernel]:
    """Return the kernels of a block; with ``fuse``, what follows a convolution of the block is joined to it."""
    elements = {layer.name: layer.elements for layer in layers}
    joined = {layer.name for layer in layers if layer.op in ("conv", "linear")}
    found = []
    for layer in layers:
        if fuse and layer.op in EPILOGUES and joined.intersection(layer.inputs):
            joined.add(layer.name)
            continue
        kernel = kernel_of_layer(layer, elements)
        if kernel is not None:
            found.append(kernel)
    return found


PRICED = ("launches", "macs", "read", "written", "weights")
"""What prices of operations and kernels are linear in, per class."""

NN_METER = ("launches", "out_pixels", "in_channels", "out_channels", "window", "stride", "macs", "weights")
"""Features of nn-Meter's forests (Zhang et al., MobiSys 2021, section 5), per class of kernels."""


def tally(batch: KernelBatch, names: Sequence[str]) -> FloatArray:
    """Return sums over the kernels of each network and class, ``[n, classes * names]``."""
    values = np.column_stack([np.ones(len(batch.kinds)) if name == "launches" else batch[name] for name in names])
    result = np.zeros((len(batch), len(CLASSES), len(names)))
    np.add.at(result, (batch.owner, classes(batch)), values)
    return result.reshape(len(batch), -1)


@dataclass(frozen=True)
class Networks:
    """Networks as every learner reads them, ``n`` rows each.

    Attributes:
        work: Multiply-accumulates, and bytes of activations and weights, ``[n, 2]``.
        operations: :data:`PRICED` of every class, nothing fused.
        kernels: The same of fused kernels.
        forest: :data:`NN_METER` of every class.
        physics: Physical features.
        genes: Choices as one column each where they are categories and as numbers where they are many; None without a space.
        X: Encodings, if there is a space.
        batch: Fused kernels, if there is none.
    """

    work: FloatArray
    operations: FloatArray
    kernels: FloatArray
    forest: FloatArray
    physics: FloatArray
    genes: FloatArray | None = None
    X: IntArray | None = None
    batch: KernelBatch | None = None

    def take(self, rows: slice) -> Networks:
        """Return some networks."""
        parts: dict[str, Any] = {name: None if value is None else value[rows] for name, value in self._arrays().items()}
        chosen = np.arange(len(self.work))[rows]
        return Networks(**parts, batch=None if self.batch is None else self.batch.take(chosen))

    def _arrays(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "batch"}


def _of_kernels(operations: KernelBatch, kernels: KernelBatch, genes: FloatArray | None = None) -> Networks:
    traffic = 4.0 * kernels.sums(kernels["read"] + kernels["written"] + kernels["weights"])
    physics = np.column_stack([kernels.sums(terms(kernels, NEAR[0])), tally(kernels, PRICED)])
    return Networks(
        work=np.column_stack([kernels.sums(kernels["macs"]), traffic]),
        operations=tally(operations, PRICED),
        kernels=tally(kernels, PRICED),
        forest=tally(kernels, NN_METER),
        physics=physics[:, physics.max(axis=0) > 0],
        genes=genes,
        batch=kernels,
    )


def _per_key(extractor: FeatureExtractor, fuse: bool, names: Sequence[str]) -> FloatArray:
    found = [kernels_of_layers(layers, fuse) for layers in extractor.indexer.layers]
    filled = [number for number, kernels in enumerate(found) if kernels]
    result = np.zeros((len(found) + 1, len(CLASSES) * len(names)))
    result[filled] = tally(KernelBatch.of([found[number] for number in filled]), names)
    return result


def _of_space(space: SearchSpace[Any], X: IntArray) -> Networks:
    extractor = FeatureExtractor(space, "fp32")
    ids = extractor.ids(X)

    def summed(fuse: bool, names: Sequence[str]) -> FloatArray:
        table = _per_key(extractor, fuse, names)
        return np.asarray(table[np.where(ids == ABSENT, len(table) - 1, ids)].sum(axis=1))

    kernels = summed(True, PRICED)
    by_name = kernels.reshape(len(X), len(CLASSES), len(PRICED)).sum(axis=1)
    traffic = 4.0 * by_name[:, 2:].sum(axis=1)
    return Networks(
        work=np.column_stack([by_name[:, 1], traffic]),
        operations=summed(False, PRICED),
        kernels=kernels,
        forest=summed(True, NN_METER),
        physics=extractor.from_ids(ids),
        genes=one_hot(X, space.lower, space.upper),
        X=X,
    )


def one_hot(X: IntArray, lower: IntArray, upper: IntArray) -> FloatArray:
    """Return a column per value of each gene; genes of more than ten values also as numbers, squared and not."""
    columns = [X[:, gene] == value for gene in range(X.shape[1]) for value in range(lower[gene], upper[gene] + 1)]
    numbers = [X[:, gene] ** power for gene in np.flatnonzero(upper - lower >= 10) for power in (1, 2)]
    return np.column_stack([*columns, *numbers]).astype(np.float64)


@dataclass(frozen=True)
class Column:
    """One device, at one batch size, on one set of networks.

    Attributes:
        name: ``DATA SET/DEVICE``.
        family: What it is averaged with.
        y: Latency of every network, NaN where there is none.
        describe: Gives the networks of some rows.
        space: The space of the networks, if they have one.
        ceiling: Error of a perfect model, from networks measured twice; NaN where none was.
    """

    name: str
    family: str
    y: FloatArray
    describe: Callable[[IntArray], Networks]
    space: SearchSpace[Any] | None = None
    ceiling: float = float("nan")


GPU = ("1080ti", "2080ti", "titan_rtx", "titanx", "titanxp", "v100")
XEON = ("gold_6240", "silver_4114", "silver_4210r")
TABLES = ("pixel3", "raspi4", "eyeriss", "fpga")
"""Columns of FBNet that are sums of a block table, not measurements."""


def family_of(data: str, column: str) -> str:
    """Return the family of a column of HELP's data."""
    device, _, batch = column.rpartition("_")
    if device in GPU:
        return f"{data} GPU b1" if batch == "1" else f"{data} GPU b32-256"
    if column == "pixel3":
        return f"{data} Pixel 3, compiled"
    return f"{data} Xeon" if column in XEON else f"{data} phones, whole ms"


def swapped(cells: IntArray) -> IntArray:
    """Return pairs of rows ``[pairs, 2]`` that are one network: cells whose two inner nodes, not connected, are swapped."""
    index = {tuple(cell): row for row, cell in enumerate(cells.tolist())}
    pairs = [
        (row, index[(cell[1], cell[0], 0, cell[3], cell[5], cell[4])])
        for row, cell in enumerate(cells.tolist())
        if cell[2] == 0
    ]
    return np.array([(first, second) for first, second in pairs if first < second])


def nas_bench_201(folder: Path) -> list[Column]:
    """Return the columns of NAS-Bench-201; the compiled one without networks whose output is not connected."""
    cells = np.array([parse(cell) for cell in json.loads((folder / "nb201_arch.json").read_text())])
    connected, pairs = np.array([any(live_edges(cell)) for cell in cells.tolist()]), swapped(cells)
    found, spaces = [], {compiled: NasBench201Space(compiled) for compiled in (False, True)}
    with np.load(folder / "nasbench201_latency.npz") as stored:
        for name in stored.files:
            y = stored[name].astype(np.float64)
            compiled = name == "pixel3"
            space = spaces[compiled]
            apart = np.abs(np.log(y[pairs[:, 0]] / y[pairs[:, 1]]))[connected[pairs[:, 0]]]
            y = np.where(connected, y, np.nan) if compiled else y
            ceiling = float(np.mean(apart) / np.sqrt(2.0))
            family = family_of("NB201", name)
            found.append(Column(f"nb201/{name}", family, y, _describer(space, cells), space, ceiling))
    return found


def _describer(space: SearchSpace[Any], X: IntArray) -> Callable[[IntArray], Networks]:
    return lambda rows: _of_space(space, X[rows])


def fbnet(folder: Path) -> list[Column]:
    """Return the columns of FBNet that were measured."""
    space, codes = FbNetSpace(), np.array(json.loads((folder / "fbnet_arch.json").read_text()))
    with np.load(folder / "fbnet_latency.npz") as stored:
        columns = {name: stored[name].astype(np.float64) for name in stored.files if name not in TABLES}
    describe = _describer(space, codes)
    return [Column(f"fbnet/{name}", family_of("FBNet", name), y, describe, space) for name, y in columns.items()]


def once_for_all(folder: Path) -> list[Column]:
    """Return the columns of OFA's MobileNetV3, in the product's own space."""
    space = MobileNetV3Space(classes=1000, resolutions=tuple(range(128, 225, 4)), widths=(1.0,))
    X = []
    for entry in json.loads((folder / "ofa_arch.json").read_text()):
        codes = [
            3 * (3, 4, 6).index(expand) + (3, 5, 7).index(kernel) + 1 if number % 4 < entry["d"][number // 4] else 0
            for number, (kernel, expand) in enumerate(zip(entry["ks"], entry["e"], strict=True))
        ]
        X.append([space.resolutions.index(entry["r"]), 0, *codes])
    with np.load(folder / "ofa_latency.npz") as stored:
        columns = {name: stored[name].astype(np.float64) for name in stored.files}
    describe = _describer(space, np.array(X))
    return [Column(f"ofa/{name}", family_of("OFA", name), y, describe, space) for name, y in columns.items()]


def nn_meter(folder: Path) -> list[Column]:
    """Return the columns of nn-Meter's data set."""
    with np.load(folder / "graphs.npz") as stored:
        ops, layers, offsets = [str(op) for op in stored["ops"]], stored["rows"], stored["offsets"]
        y = {name: stored[f"{name}_ms"].astype(np.float64) for name in ("cortexA76cpu", "myriadvpu")}

    def describe(rows: IntArray) -> Networks:
        parts = [layers[offsets[row] : offsets[row + 1]] for row in rows]
        operations = KernelBatch.of([[kernel_of(ops[layer[0]], layer[1:]) for layer in part] for part in parts])
        return _of_kernels(operations, KernelBatch.of([kernels_of(ops, part) for part in parts]))

    names = {"cortexA76cpu": "nn-Meter Cortex-A76", "myriadvpu": "nn-Meter Myriad VPU"}
    return [Column(f"nn-meter/{name}", names[name], values, describe) for name, values in y.items()]


_TOKENS, _ATTENTION, _WORDS = 30, 512, 32000
"""Tokens of HAT's measured sentence, width of its attention, words of its dictionary (rounded)."""


def decoder_kernels(row: FloatArray, fuse: bool) -> list[Kernel]:
    """Return the kernels of one step of HAT's decoder (Wang et al., ACL 2020), every layer the average layer."""
    width, layers, hidden = int(row[4]), int(row[5]), round(float(row[6]))

    def plain(kind: str, size: float) -> Kernel:
        return Kernel(kind=kind, read=size, written=size, in_channels=width, out_channels=width)

    def attention(heads: float, length: float) -> list[Kernel]:
        work, scores, own = 2.0 * length * _ATTENTION, heads * length, round(heads)
        read = work + _ATTENTION
        product = Kernel(kind="matmul", macs=work, read=read, written=scores, in_channels=own, out_channels=own)
        return [product, Kernel(kind="softmax", read=scores, written=scores, in_channels=own, out_channels=own)]

    own = [Kernel.linear(width, 3 * _ATTENTION), *attention(float(row[7]), _TOKENS), Kernel.linear(_ATTENTION, width)]
    query, projection = Kernel.linear(width, _ATTENTION), Kernel.linear(_ATTENTION, width)
    across = [query, *attention(float(row[8]), _TOKENS * float(row[9])), projection]
    inner = Kernel.linear(width, hidden, epilogue=int(fuse))
    dense = [inner, *([] if fuse else [plain("elementwise", float(hidden))]), Kernel.linear(hidden, width)]
    layer = [kernel for part in (own, across, dense) for kernel in (*part, plain("add", width), plain("norm", width))]
    return [*(layer * layers), Kernel.linear(width, _WORDS)]


def hat(folder: Path) -> list[Column]:
    """Return the decoder columns of HAT."""
    found = []
    for path in sorted(folder.glob("*_all.csv")):
        values = np.loadtxt(path, delimiter=",", skiprows=1)
        name = path.stem.removesuffix("_all")
        family = f"HAT decoder {'GPU' if 'gpu' in name else 'CPU'}"
        found.append(Column(f"hat/{name}", family, values[:, 11], _hat_describer(values)))
    return found


def _hat_describer(values: FloatArray) -> Callable[[IntArray], Networks]:
    def describe(rows: IntArray) -> Networks:
        chosen = values[rows]
        batches = [KernelBatch.of([decoder_kernels(row, fuse) for row in chosen]) for fuse in (False, True)]
        categories = [chosen[:, gene] == value for gene in (0, 4, 5) for value in np.unique(values[:, gene])]
        genes = np.column_stack([*categories, chosen[:, 1:10], chosen[:, 5:6] * chosen[:, 6:10]])
        return _of_kernels(batches[0], batches[1], genes.astype(np.float64))

    return describe


SOURCES: dict[str, tuple[str, Callable[[Path], list[Column]]]] = {
    "nn-meter": ("nn-meter", nn_meter),
    "nb201": ("help", nas_bench_201),
    "fbnet": ("help", fbnet),
    "ofa": ("help", once_for_all),
    "hat": ("hat", hat),
}
"""Data set -> its folder and what reads it."""


def columns_of(folder: Path) -> list[Column]:
    """Return all columns below a folder.

    Raises:
        SystemExit: A data set is absent; it is named.
    """
    found: list[Column] = []
    for name, (place, read) in SOURCES.items():
        try:
            found += read(folder / place)
        except FileNotFoundError as error:
            raise SystemExit(f"{folder / place} lacks files of {name} ({error.filename})") from error
    return found
