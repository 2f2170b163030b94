"""The report of a run: one HTML file that opens offline, made from nothing but the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from hwnas.errors import RunFolderError
from hwnas.files import write_text
from hwnas.reporting import figures
from hwnas.reporting.formats import DASH, format_bytes, format_number, format_seconds, format_share
from hwnas.reporting.front_table import COLUMNS, front_rows
from hwnas.reporting.run_data import RunData, TargetData, read_run

METRICS = {
    "mape": ("Mean error", True),
    "bias": ("Bias", True),
    "within_5": ("Within 5 %", True),
    "within_10": ("Within 10 %", True),
    "spearman": ("Spearman", False),
    "kendall": ("Kendall", False),
    "coverage": ("Interval coverage", True),
    "width": ("Interval width", True),
    "count": ("Networks", False),
}
"""Known metrics of the latency model: label, and whether it is a share; others are shown under their own name."""

BASELINES = {
    "without_lut": "Without lookup table",
    "block_lut": "Sum of block prices",
    "macs": "Line through MACs",
    "test_retest": "Measured again",
}
"""Known baselines and how they are called."""


def metric_table(evaluation: dict[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return column labels and rows ``(name, cells)`` of the latency model and its baselines."""
    metrics = {key: value for key, value in (evaluation.get("metrics") or {}).items() if isinstance(value, int | float)}
    rows: list[tuple[str, dict[str, Any]]] = [("Latency model", metrics)] if metrics else []
    for name, entry in (evaluation.get("baselines") or {}).items():
        rows.append((BASELINES.get(name, name), entry if isinstance(entry, dict) else {"mape": entry}))
    known = [key for key in METRICS if any(key in entry for _, entry in rows)]
    keys = known + sorted({key for _, entry in rows for key in entry} - set(known))
    labels = [METRICS.get(key, (key.replace("_", " "), False))[0] for key in keys]
    return labels, [(name, [_metric(key, entry.get(key)) for key in keys]) for name, entry in rows]


def _metric(key: str, value: Any) -> str:
    return format_share(value) if METRICS.get(key, ("", False))[1] else format_number(value)


def target_view(run: RunData, target: TargetData, index: int) -> dict[str, Any]:
    """Return what the template shows of one target."""
    columns, rows = metric_table(target.evaluation)
    blocks = [
        (artifact.label, figures.blocks_figure(artifact, f"blocks-{index}-{number}"))
        for number, artifact in enumerate(target.artifacts)
    ]
    return {
        "data": target,
        "anchor": f"target-{index}",
        "front": figures.front_figure(run, target, f"front-{index}"),
        "members": front_rows(target.name, target.front),
        "member_columns": COLUMNS[:-1],
        "prediction": figures.prediction_figure(target, f"prediction-{index}"),
        "columns": columns,
        "rows": rows,
        "blocks": [(name, figure) for name, figure in blocks if figure],
    }


def summary(run: RunData) -> list[tuple[str, str]]:
    """Return the headline facts: ``(figure, what it counts)``."""
    judged = [artifact.manifest for artifact in run.artifacts if artifact.manifest.budgets]
    tested = [entry.manifest.accuracy.test for entry in run.artifacts if entry.manifest.accuracy]
    best = max((value for value in tested if value is not None), default=None)
    facts = []
    if judged:
        kept = sum(manifest.kept for manifest in judged)
        facts.append((f"{kept} of {len(judged)}", "artifacts keep their budget, measured"))
    if best is not None:
        facts.append((format_share(best), "best test accuracy of an artifact"))
    if measured := sum(target.rows for target in run.targets):
        facts.append((str(measured), "measured rows in latency tables"))
    if run.archive:
        facts.append((str(len({str(record.get("encoding")) for record in run.archive})), "architectures evaluated"))
    return facts


def facts(run: RunData) -> list[tuple[str, str]]:
    """Return what was run: data, seeds, versions."""
    config = run.config
    rows = [("Data set", str((config.get("data") or {}).get("source", DASH)))]
    for artifact in run.artifacts[:1]:
        if artifact.manifest.accuracy is not None:
            rows.append(("Data digest", artifact.manifest.accuracy.data_digest[:16]))
    rows.append(("Search space", str((config.get("space") or {}).get("name", DASH))))
    rows.append(("Strategy", str((config.get("search") or {}).get("strategy", DASH))))
    seeds = {key: value["seed"] for key, value in config.items() if isinstance(value, dict) and "seed" in value}
    if config:
        seeds = {"run": config.get("seed", 0), **seeds}
    rows.append(("Seeds", ", ".join(f"{name} {seed}" for name, seed in seeds.items()) or DASH))
    versions = {key: value for artifact in run.artifacts for key, value in artifact.manifest.tools.items()}
    rows.append(("Versions", ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) or DASH))
    return rows


def render(run: RunData) -> str:
    """Return the report as one HTML document."""
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("hwnas.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "number": format_number,
        "share": format_share,
        "seconds": format_seconds,
        "bytes": format_bytes,
    }
    return environment.get_template("report.html.j2").render(
        run=run,
        summary=summary(run),
        targets=[target_view(run, target, index) for index, target in enumerate(run.targets)],
        hypervolume=figures.history_figure(run, "hypervolume", "Hypervolume", "hypervolume"),
        tau=figures.history_figure(run, "tau", "Kendall tau", "tau"),
        training=figures.training_figure(run.training, "training-loss"),
        facts=facts(run),
        total_seconds=sum(float(step.get("seconds") or 0) for step in run.steps),
        config=yaml.safe_dump(run.config, sort_keys=False) if run.config else "",
        plotly=get_plotlyjs(),
    )


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` into ``run_folder`` from the files in it, and return its path.

    Raises:
        RunFolderError: The folder does not exist.
        StorageError: The report cannot be written.
    """
    if not run_folder.is_dir():
        raise RunFolderError(f"{run_folder} is not a folder. Give a run folder, for example runs/demo.")
    path = run_folder / "report.html"
    write_text(path, render(read_run(run_folder)))
    return path
