"""How OpenVINO and NNCF are imported: without their telemetry, and silent."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from typing import Any


def import_openvino() -> Any:
    """Import OpenVINO so that it sends nothing: without its telemetry package it falls back on a stub."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    import openvino.opset13  # noqa: F401 - loads openvino.opset13

    return openvino


def import_nncf() -> Any:
    """Import NNCF so that it sends nothing."""
    import_openvino()
    with silenced():
        import nncf
    return nncf


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keep progress bars and log lines of a library off the terminal; what it raises passes through."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
