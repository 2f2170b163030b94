"""``model.onnx`` to ``engine.rtx`` for a named compute capability, without a GPU.

What cannot be built for a reason that a person can mend is a result, not a failure: ``refused`` says it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path.cwd()))  # an isolated interpreter does not look beside the script


def main() -> None:
    """Build as the request says."""
    import tensorrt_rtx

    tensorrt_build = importlib.import_module("tensorrt_build")
    request = json.loads(pathlib.Path(sys.argv[1]).read_text())
    version = importlib.metadata.version("tensorrt-rtx-cu13")
    result: dict[str, Any] = {
        "builder": f"tensorrt-rtx {version}",
        "offered": tensorrt_build.capabilities(tensorrt_rtx),
    }
    if request["capability"] in result["offered"]:
        try:
            model = pathlib.Path("model.onnx").read_bytes()
            built = tensorrt_build.build(tensorrt_rtx, model, request["capability"])
            pathlib.Path("engine.rtx").write_bytes(built.engine)
            result["size_bytes"] = len(built.engine)
        except tensorrt_build.BuildError as error:
            result["refused"] = error.detail
    pathlib.Path("result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
