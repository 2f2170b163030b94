"""Reading and writing ONNX files that may come from anywhere."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import onnx

from hwnas.errors import ModelFileError
from hwnas.files import explain_os_errors


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model as one file.

    Raises:
        StorageError: The file cannot be written.
    """
    with explain_os_errors(path):
        path.write_bytes(model.SerializeToString())


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file with all its weights.

    Raises:
        ModelFileError: It is absent, not ONNX, breaks the standard, or refers to weights outside its folder.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise ModelFileError(f"{path.name} does not exist in {path.parent.name or '.'}/.") from error
    except Exception as error:  # protobuf's DecodeError is not a class of its own in every version
        raise ModelFileError(f"{path.name} is not an ONNX file ({error}).") from error
    if not model.graph.node:
        raise ModelFileError(f"{path.name} is not an ONNX file: it holds no graph.")
    if _external_locations(model, path):
        onnx.load_external_data_for_model(model, str(path.parent))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelFileError(f"{path.name} breaks the ONNX standard: {str(error).splitlines()[0]}") from error
    return model


def _external_locations(model: onnx.ModelProto, path: Path) -> list[str]:
    """Return the files weights lie in.

    Raises:
        ModelFileError: One of them is outside the model's folder or absent.
    """
    found = []
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                found.append(entry.value)
    for location in sorted(set(found)):
        parts = PurePosixPath(location.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or not (path.parent / location).is_file():
            raise ModelFileError(f"{path.name} takes weights from {location!r}, which is not a file in its own folder.")
    return found


def input_shape(model: onnx.ModelProto) -> tuple[str, tuple[int, ...]]:
    """Return name and fixed shape (batch first) of the only input.

    Raises:
        ModelFileError: There are several inputs, or the shape is open.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ModelFileError(f"the ONNX graph has {len(inputs)} inputs, but exactly one is supported.")
    dims = inputs[0].type.tensor_type.shape.dim
    shape = tuple(int(dim.dim_value) for dim in dims)
    if not shape or min(shape) < 1:
        raise ModelFileError(
            f"input {inputs[0].name!r} of the ONNX graph has an open shape; export it with fixed sizes."
        )
    return inputs[0].name, shape
