"""How OpenVINO and NNCF are imported: silent, and without their telemetry."""

from __future__ import annotations

import sys
from typing import Any

from hwnas.backends._quiet import silenced


def import_openvino() -> Any:
    """Import OpenVINO so that it sends nothing: without its telemetry package it falls back on a stub."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino
    import openvino.opset13

    return openvino


def import_nncf() -> Any:
    """Import NNCF so that it sends nothing."""
    import_openvino()
    with silenced():
        import nncf
    return nncf
