from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
from artifacts_support import SIDE, small_onnx
from onnx import numpy_helper
from PIL import Image
from typer.testing import CliRunner

import hwnas
from hwnas.artifacts import user_models
from hwnas.artifacts.export import export_model, verify_artifact
from hwnas.artifacts.package import open_package
from hwnas.artifacts.pipeline import Artifact
from hwnas.backends.onnxruntime import OnnxRuntimeBackend
from hwnas.backends.openvino import OpenVinoBackend
from hwnas.cli import app
from hwnas.config import Budget, ExportSection
from hwnas.datasets.images import decode_picture, square_pixels
from hwnas.datasets.preprocessing import Preprocessing
from hwnas.devices.session import Session, open_session
from hwnas.errors import ArtifactError, ConfigError, ModelFileError
from hwnas.targets import Target, find_device

SECTION = ExportSection(rounds=5)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with open_session(find_device("local")) as opened:
        yield opened


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 4),
    )


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_onnx_file_becomes_an_artifact(tmp_path: Path, session: Session, runtime: str) -> None:
    onnx.save(small_onnx(), tmp_path / "mine.onnx")
    made = export_model(
        tmp_path / "mine.onnx",
        target=Target("local", runtime, "fp32"),
        backend=OnnxRuntimeBackend(),
        session=session,
        folder=tmp_path / "made",
        section=SECTION,
        budget=Budget(max_ms=10_000),
    )
    assert not made.broken
    assert made.manifest.accuracy is None
    assert made.manifest.parity_reference == "the ONNX reference evaluator"
    assert made.manifest.parity["output"].relative_l2 <= 1e-4
    assert made.manifest.licence.weights.startswith("unknown")
    assert "Not evaluated" in (made.folder / "README.md").read_text()
    assert verify_artifact(made.folder, session=session, rounds=5).passed


def test_weights_beside_an_onnx_file_belong_to_it(tmp_path: Path, session: Session) -> None:
    source = tmp_path / "mine.onnx"

    def save(scale: float) -> None:
        model = small_onnx()
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32:
                tensor.CopyFrom(numpy_helper.from_array(values * np.float32(scale), tensor.name))
        (tmp_path / "mine.data").unlink(missing_ok=True)
        onnx.save(model, source, save_as_external_data=True, location="mine.data", size_threshold=0)

    def export() -> Artifact:
        return export_model(
            source,
            target=Target("local", "onnxruntime", "fp32"),
            backend=OnnxRuntimeBackend(),
            session=session,
            folder=tmp_path / "made",
            section=SECTION,
        )

    save(1.0)
    before, made = source.read_bytes(), export()
    assert hwnas.measure(source, "local/onnxruntime-fp32", rounds=5)["value"] > 0
    assert export().manifest == made.manifest
    save(2.0)
    assert source.read_bytes() == before
    with pytest.raises(ArtifactError, match="never overwritten"):
        export()
    (tmp_path / "mine.data").unlink()
    with pytest.raises(ModelFileError, match=r"'mine\.data', which is not beside it"):
        hwnas.measure(source, "local/onnxruntime-fp32")


def test_a_torch_module_by_import_path_in_batches(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("my_models")
    module.network = network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_models", module)
    made = export_model(
        "my_models:network",
        target=Target.parse("local/openvino-fp32-b3"),
        backend=OpenVinoBackend(),
        session=session,
        folder=tmp_path / "made",
        input_shape=(3, 1, SIDE, SIDE),
        section=SECTION,
    )
    assert made.manifest.inputs[0].shape == (3, 1, SIDE, SIDE)
    assert made.manifest.budgets == ()
    assert made.manifest.kept
    report = verify_artifact(made.folder, session=session, rounds=5)
    assert report.passed
    assert report.rows[-1][1] == "note"
    assert "no budget" in report.rows[-1][2]


@pytest.mark.parametrize("bits", [7, 8])
def test_int8_of_a_module_is_calibrated_with_given_samples(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    monkeypatch.setattr(user_models, "int8_weight_bits", lambda identity: bits)
    samples = np.random.default_rng(0).normal(size=(24, 1, SIDE, SIDE)).astype(np.float32)
    made = export_model(
        network(),
        target=Target("local", "onnxruntime", "int8"),
        backend=OnnxRuntimeBackend(),
        session=session,
        folder=tmp_path / "made",
        input_shape=(1, 1, SIDE, SIDE),
        samples=samples,
        section=SECTION,
    )
    assert made.manifest.calibration is not None
    assert made.manifest.calibration.images == 24
    assert made.manifest.parity["output"].cosine > 0.9
    assert made.manifest.runtime.precision == "int8"
    assert made.manifest.quantisation is not None
    assert made.manifest.quantisation["weight_bits"] == bits
    card = (made.folder / "README.md").read_text()
    assert ("Weights use 7 of 8 bits" in card) == (bits == 7)
    assert "\n\n## Licence" in card


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_float_onnx_file_is_quantised_for_int8(tmp_path: Path, session: Session, runtime: str) -> None:
    onnx.save(small_onnx(), tmp_path / "mine.onnx")
    made = export_model(
        tmp_path / "mine.onnx",
        target=Target("local", runtime, "int8"),
        backend=OnnxRuntimeBackend(),
        session=session,
        folder=tmp_path / "made",
        samples=np.random.default_rng(0).normal(size=(24, 1, SIDE, SIDE)),
        section=SECTION,
    )
    assert made.manifest.runtime.precision == "int8"
    assert made.manifest.quantisation is not None
    assert made.manifest.quantisation["calibration_images"] == 24
    assert made.manifest.parity["output"].cosine > 0.9
    assert verify_artifact(made.folder, session=session, rounds=5).passed


def test_int8_of_an_own_model_by_the_command(tmp_path: Path) -> None:
    onnx.save(small_onnx(), tmp_path / "mine.onnx")
    np.save(tmp_path / "inputs.npy", np.random.default_rng(0).normal(size=(24, 1, SIDE, SIDE)))
    np.save(tmp_path / "words.npy", np.array(["no", "numbers"]))
    (tmp_path / "text.npy").write_text("no array")
    words = ["export", str(tmp_path / "mine.onnx"), "--target", "local/onnxruntime-int8", "--output", str(tmp_path)]
    for name, message in [("absent", "cannot be read"), ("text", "cannot be read"), ("words", "one array of numbers")]:
        with pytest.raises(ConfigError, match=message):
            hwnas.export(words[1], target=words[3], output=tmp_path, samples=tmp_path / f"{name}.npy")
    for source in ("run.yaml", str(tmp_path)):
        with pytest.raises(ConfigError, match="--samples belong"):
            hwnas.export(source, target=words[3], samples=tmp_path / "inputs.npy")
    assert not list(tmp_path.glob("local--*"))
    result = CliRunner().invoke(app, [*words, "--samples", str(tmp_path / "inputs.npy")])
    assert result.exit_code == 0, result.output
    manifest = open_package(tmp_path / "local--onnxruntime-int8-t1-b1--mine")
    assert manifest.calibration is not None
    assert manifest.calibration.images == 24
    assert manifest.runtime.precision == "int8"


def test_unusable_sources_say_what_mends_them(tmp_path: Path, session: Session) -> None:
    onnx.save(small_onnx(), tmp_path / "mine.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    common = {"session": session, "folder": tmp_path / "made", "backend": OnnxRuntimeBackend(), "section": SECTION}
    fp32 = Target("local", "onnxruntime", "fp32")
    with pytest.raises(ConfigError, match="--input-shape"):
        export_model(network(), target=fp32, **common)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"must read pkg\.mod:function"):
        export_model("no_such_module_here:thing", target=fp32, **common)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"torch\.nn\.Module, got dict"):
        export_model("builtins:dict", target=fp32, **common)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not torch"):
        export_model(tmp_path / "mine.onnx", target=Target("local", "torch", "fp32"), **common)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has batch 1"):
        export_model(tmp_path / "mine.onnx", target=Target.parse(f"{fp32}"[:-1] + "4"), **common)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="samples have shape"):
        export_model(tmp_path / "mine.onnx", target=fp32, samples=np.zeros((2, 3, 8, 8)), **common)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="int8 needs real inputs"):
        export_model(network(), target=Target("local", "onnxruntime", "int8"), input_shape=(1, 1, 8, 8), **common)  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match="not an ONNX file"):
        export_model(tmp_path / "text.onnx", target=fp32, **common)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="int8 needs real inputs"):
        export_model(tmp_path / "mine.onnx", target=Target("local", "onnxruntime", "int8"), **common)  # type: ignore[arg-type]
    assert not (tmp_path / "made").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.onnx", "text.onnx"]


def infer_module(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("infer_script", folder / "infer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("stored", "resolution"), [(16, 8), (16, 16), (16, 24), (20, 13)])
def test_infer_script_preprocesses_as_training_did(package: Path, stored: int, resolution: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (stored, stored, 3), dtype=np.uint8)
    preprocess = Preprocessing(stored, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    expected = preprocess(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None], resolution).numpy()
    manifest = {"preprocessing": preprocess.describe(resolution)}
    found = infer_module(package).preprocess(pixels, manifest)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (13, 9), (33, 33)])
def test_infer_script_crops_and_resizes_pictures_as_the_data_set_did(package: Path, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    script = infer_module(package)
    found = script.centre_square(script.to_channels(np.asarray(picture), "RGB"), 16)
    expected = square_pixels(picture, 16).transpose(2, 0, 1)
    # Pillow rounds after each of its two passes: one or two levels of 255.
    assert np.abs(found - expected.astype(float)).max() <= 2
    gray = script.centre_square(script.to_channels(np.asarray(picture), "gray"), 16)
    assert np.abs(gray - square_pixels(picture.convert("L"), 16)[None].astype(float)).max() <= 2


def test_infer_script_turns_pictures_upright_and_narrows_wide_ones_as_the_data_set_does(
    package: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    upright = Image.fromarray(rng.integers(0, 256, (24, 36, 3), dtype=np.uint8))
    exif = upright.getexif()
    exif[0x0112] = 6
    upright.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(rng.integers(0, 65536, (20, 20), dtype=np.uint16)).save(tmp_path / "wide.png")
    Image.fromarray(rng.integers(0, 256, (20, 20, 2), dtype=np.uint8), "LA").save(tmp_path / "alpha.png")
    script = infer_module(package)
    for name, channels in (("turned.png", "RGB"), ("wide.png", "gray"), ("alpha.png", "gray")):
        expected = decode_picture((tmp_path / name).read_bytes(), 16, name).astype(float)
        found = script.centre_square(script.to_channels(script.read_image(tmp_path / name), channels), 16)
        expected = expected.transpose(2, 0, 1) if expected.ndim == 3 else expected[None]
        assert np.abs(found - expected).max() <= 2, name


def test_infer_script_reads_files_and_names_labels(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (16, 16), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    (tmp_path / "a.pgm").write_bytes(b"P5\n# a comment\n16 16\n255\n" + pixels.tobytes())
    Image.fromarray(pixels).save(tmp_path / "a.png")
    script = infer_module(package)
    for name in ("a.npy", "a.pgm", "a.png"):
        np.testing.assert_array_equal(script.read_image(tmp_path / name), pixels)
    assert script.main([str(tmp_path / "a.npy"), str(tmp_path / "a.png"), "--json"]) == 0
    answers = list(json.loads(capsys.readouterr().out).values())
    assert answers[0] == answers[1]
    assert {entry["label"] for entry in answers[0]} == {"cat", "dog", "owl"}
    assert script.main([str(tmp_path / "absent.npy")]) == 2
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert script.main([str(tmp_path / "objects.npy")]) == 2
