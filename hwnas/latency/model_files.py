"""The files of latency models: ``model.json`` and, beside it, XGBoost's own UBJSON, each booster's digest in the former."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xgboost as xgb

from hwnas import registry
from hwnas.errors import HwnasError, RunFolderError, TableError
from hwnas.files import read_json, sha256_file, write_bytes, write_json
from hwnas.latency.conformal import Conformal
from hwnas.latency.features import FeatureExtractor
from hwnas.latency.lut import BlockPrices
from hwnas.latency.predictor import Domain, Tail
from hwnas.latency.regressor import THREADS, Base, Regressor
from hwnas.spaces.base import Architecture, SearchSpace
from hwnas.targets import Fingerprint, Target

SCHEMA = 1
"""Version of the files."""

Kind = Literal["measured", "transferred", "kernels"]
"""Fitted on the target's own networks, transferred from models of other targets, or prices of kernels."""

MODEL_FILE = "model.json"
_MEND = "Fit it again from its table: hwnas fit."


@contextlib.contextmanager
def explain(folder: Path) -> Iterator[None]:
    """Turn a missing or misshapen field into a :class:`TableError`."""
    try:
        yield
    except HwnasError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise TableError(f"{folder / MODEL_FILE} is damaged ({error!r}). {_MEND}") from error


def _booster_name(index: int) -> str:
    return "residual.ubj" if index == 0 else f"residual-jury{index}.ubj"


def _regressor_dict(regressor: Regressor, file: dict[str, str]) -> dict[str, Any]:
    base = regressor.base
    return {
        "coefficients": base.coefficients.tolist(),
        "lut": base.prices.as_dict() if base.prices is not None else None,
        "lut_weight": base.lut_weight,
        "shrink": regressor.shrink,
        **file,
    }


def save(folder: Path, content: dict[str, Any], full: Regressor, jury: tuple[Regressor, ...]) -> None:
    """Write the files of a measured model: boosters first, so that an interrupted save is no model."""
    entries = []
    for index, regressor in enumerate((full, *jury)):
        entries.append(_regressor_dict(regressor, save_booster(regressor.booster, folder / _booster_name(index))))
    write_description(folder, "measured", {**content, "regressors": entries})


def write_description(folder: Path, kind: Kind, content: dict[str, Any]) -> None:
    """Write ``model.json``, always last."""
    write_json(folder / MODEL_FILE, {"schema": SCHEMA, "kind": kind, **content})


def load_booster(folder: Path, entry: dict[str, Any]) -> xgb.Booster:
    """Read the booster that ``entry`` names in ``booster`` and ``sha256``.

    Raises:
        TableError: It is absent, damaged or another one.
    """
    path = folder / entry["booster"]
    if Path(entry["booster"]).name != entry["booster"]:
        raise TableError(f"{folder / MODEL_FILE} names a file outside its folder ({entry['booster']!r}).")
    if not path.exists():
        raise TableError(f"{path} of the latency model is missing. {_MEND}")
    if sha256_file(path) != entry["sha256"]:
        raise TableError(f"{path} is damaged or belongs to another model (its digest differs). {_MEND}")
    booster = xgb.Booster({"nthread": THREADS})
    try:
        booster.load_model(bytearray(path.read_bytes()))
    except xgb.core.XGBoostError as error:
        raise TableError(f"{path} cannot be read ({str(error).splitlines()[0]}). {_MEND}") from error
    return booster


def save_booster(booster: xgb.Booster, path: Path) -> dict[str, str]:
    """Write a booster; return what :func:`load_booster` needs to read it."""
    write_bytes(path, bytes(booster.save_raw("ubj")))
    return {"booster": path.name, "sha256": sha256_file(path)}


def _load_regressor(folder: Path, entry: dict[str, Any]) -> Regressor:
    booster = load_booster(folder, entry)
    prices = BlockPrices.from_dict(entry["lut"]) if entry["lut"] is not None else None
    base = Base(np.asarray(entry["coefficients"], dtype=np.float64), prices, float(entry["lut_weight"]))
    return Regressor(base, booster, float(entry["shrink"]))


def read_description(folder: Path) -> tuple[Kind, dict[str, Any]]:
    """Return the kind of the model in ``folder`` and what its ``model.json`` says.

    Raises:
        TableError: The file is absent, damaged, of another version or of an unknown kind.
    """
    path = folder / MODEL_FILE
    try:
        content = read_json(path)
    except RunFolderError as error:
        raise TableError(f"no latency model in {folder}: {error} {_MEND}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise TableError(f"{path}: expected a latency model of schema {SCHEMA}, got {found!r}. {_MEND}")
    kind = content.get("kind", "measured")
    if kind not in get_args(Kind):
        raise TableError(f"{path}: kind={kind!r} must be one of {', '.join(get_args(Kind))}. {_MEND}")
    return kind, content


def load_regressors(folder: Path, content: dict[str, Any]) -> tuple[Regressor, tuple[Regressor, ...]]:
    """Read the predictors of a measured model.

    Raises:
        TableError: A file is absent or damaged.
    """
    with explain(folder):
        regressors = [_load_regressor(folder, entry) for entry in content["regressors"]]
        return regressors[0], tuple(regressors[1:])


def common_of(content: dict[str, Any], folder: Path, space: SearchSpace[Architecture] | None) -> dict[str, Any]:
    """Return the fields that every kind of model has.

    Raises:
        TableError: The model is damaged, of another space or of other features.
    """
    with explain(folder):
        target = Target.parse(content["target"])
        space = space_of(content, folder, space)
        extractor = FeatureExtractor(space, target.precision)
        require_schema(content, dict(extractor.schema), folder)
        return {
            "target": target,
            "fingerprint": Fingerprint.from_dict(content["fingerprint"]),
            "space": space,
            "extractor": extractor,
            "conformal": Conformal(**content["conformal"]),
            "tails": {name: Tail(**tail) for name, tail in content["tails"].items()},
            "domain": Domain(*np.asarray(content["limits"], dtype=np.float64)),
            "facts": content["facts"],
        }


def space_of(
    content: dict[str, Any], folder: Path, space: SearchSpace[Architecture] | None
) -> SearchSpace[Architecture]:
    """Return the model's space: the one given, if it is the same, else made from the saved settings.

    Raises:
        TableError: The given space is another one.
    """
    saved = content["space"]
    if space is None:
        space = registry.load("space", saved["name"])(**saved["settings"])
    if space is None or space.digest != saved["digest"]:
        raise TableError(
            f"the latency model in {folder} is of space {saved['name']} with other settings "
            f"(digest {saved['digest'][:12]}). Profile this space: hwnas profile."
        )
    return space


def require_schema(content: dict[str, Any], schema: dict[str, Any], folder: Path) -> None:
    """Raise unless the model was fitted on the features this version computes.

    Raises:
        TableError: It was not.
    """
    if content["features"] != schema:
        raise TableError(
            f"the latency model in {folder} was fitted on other features than this version computes. {_MEND} If another version drew "
            "the table's networks: hwnas profile --kernels."
        )
