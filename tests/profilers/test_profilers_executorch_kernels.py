from __future__ import annotations

from pathlib import Path

import pytest

from hwnas_profilers.executorch_kernels import Event, check_precision, layer_names, medians, read_layers
from hwnas_profilers.protocol import Failure

NODES = [
    ("StaticTranspose", ""),
    ("DepthwiseConv2d", "stem.conv"),
    ("Convert", "stem.conv"),
    ("Hardswish", "stem.act"),
    ("Convert", "stem.act"),
    ("GlobalAvgPooling2d", "se.pool"),
    ("Conv2d", "se.reduce"),
    ("Add", "se.gate"),
    ("Clamp", "se.gate"),
    ("Clamp", "se.gate"),
    ("Div", "se.gate"),
    ("Multiply", "se.mul"),
    ("StaticReshape", "flatten"),
    ("FullyConnected", "classifier"),
]


def event(name: str, *kinds: str, part: int = 0, ms: float = 1.0) -> Event:
    return Event(f"{name} #1", name, kinds, part, ms)


def run(*, precision: str = "F32", ms: float = 1.0) -> list[Event]:
    """What XNNPACK ran of NODES: two clamps became one, h-swish lost its name."""
    return [
        event("_to_dim_order_copy", part=-1, ms=ms),
        event("Transpose", "ND", "X32", ms=ms),
        event("Convolution", "NHWC", precision, ms=ms),
        event("Invalid Unary Op", ms=ms),
        event("Mean", "ND", ms=ms),
        event("Fully Connected", "NC", precision, ms=ms),
        event("Add", "ND", ms=ms),
        event("Clamp", "NC", ms=ms),
        event("Divide", "ND", ms=ms),
        event("Multiply", "ND", ms=ms),
        event("Static Reshape", "NC", ms=ms),
        event("Fully Connected", "NC", precision, ms=ms),
    ]


def test_kernels_get_the_layers_they_became_of() -> None:
    found = layer_names(run(), [NODES])
    assert found[:7] == ["", "", "stem.conv", "stem.act", "se.pool", "se.reduce", "se.gate"]
    assert found[7:] == ["se.gate", "se.gate", "se.mul", "flatten", "classifier"]


def test_a_part_of_another_number_of_compute_kernels_gets_no_names() -> None:
    assert set(layer_names(run(), [NODES[:-1]])) == {""}


def test_a_kernel_that_no_node_explains_gets_no_name() -> None:
    events = [*run()[:3], event("Subtract", "ND"), *run()[3:]]
    found = layer_names(events, [NODES])
    assert found[3] == ""
    assert found[4:6] == ["stem.act", "se.pool"]


def test_parts_are_named_apart() -> None:
    second = [event("Convolution", "NHWC", "F32", part=1)]
    assert layer_names([*run(), *second], [NODES, [("Conv2d", "head.conv")]])[-1] == "head.conv"


@pytest.mark.parametrize(
    ("kinds", "precision"),
    [
        (("NHWC", "F32"), "fp32"),
        (("NC", "F16"), "fp16"),
        (("NHWC", "QC8"), "int8"),
        (("NC", "QS8", "QC8W"), "int8"),
        (("NC", "QD8", "F32", "QC8W"), "other"),
        (("NC", "F32", "QC8W"), "other"),
        (("NC",), "other"),
    ],
)
def test_precision_is_read_from_what_xnnpack_calls_its_kernels(kinds: tuple[str, ...], precision: str) -> None:
    assert event("Fully Connected", *kinds).precision == precision


def test_another_precision_is_a_fallback() -> None:
    assert check_precision(run(), "fp32", "m.pte")[0] == "3 of 3 compute kernels run in fp32"
    assert check_precision(run(precision="QC8"), "int8", "m.pte")[0] == "3 of 3 compute kernels run in int8"
    for precision, wanted in (("F32", "int8"), ("QC8", "fp32"), ("F32", "fp16")):
        with pytest.raises(Failure, match=f"fallback: {wanted} was asked for"):
            check_precision(run(precision=precision), wanted, "m.pte")


def test_float_programs_are_float_throughout_and_int8_programs_may_keep_float_layers() -> None:
    mixed = [*run(precision="QC8"), event("Convolution", "NHWC", "F32")]
    assert check_precision(mixed, "int8", "m.pte")[0] == "3 of 4 compute kernels run in int8"
    with pytest.raises(Failure, match="fp32, int8"):
        check_precision(mixed, "fp32", "m.pte")


def test_kernels_that_xnnpack_does_not_run_are_told() -> None:
    portable = [*run(), event("convolution", part=-1)]
    notes = check_precision(portable, "fp32", "m.pte")
    assert "XNNPACK runs 3 of 4 compute kernels, and 11 of 13 of all" in notes[1]


def test_times_are_medians_of_the_warm_runs() -> None:
    runs = [run(ms=90.0), run(ms=1.0), run(ms=2.0), run(ms=9.0)]
    assert {kernel.ms for kernel in medians(runs, [NODES], 1)} == {2.0}
    with pytest.raises(Failure, match="unstable"):
        medians([*runs, run()[:-1]], [NODES], 1)


def test_layers_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    assert read_layers(path) == []
    path.write_text('[[["Conv2d", "a"]], []]')
    assert read_layers(path) == [[("Conv2d", "a")], []]
    for wrong in ("[[[1]]]", "{", "3"):
        path.write_text(wrong)
        with pytest.raises(Failure, match=r"load_failed: layers\.json"):
            read_layers(path)
