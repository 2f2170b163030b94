"""The plots of the report, each as an HTML fragment that needs the inlined plotly.js.

Colours are from Okabe and Ito's palette, which people with any common colour vision can tell apart; shapes differ too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwnas.reporting.front import Point, points_of
from hwnas.reporting.run_data import ArtifactData, RunData, TargetData

BLUE, VERMILION, GREEN, ORANGE, GREY, INK = "#0072B2", "#C24A00", "#007A5A", "#B26B00", "#8A929C", "#1F2933"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def _layout(x: str, y: str, height: int = 400) -> dict[str, Any]:
    axis = {
        "gridcolor": "#E6E9ED",
        "zeroline": False,
        "linecolor": "#B8C0C8",
        "ticks": "outside",
        "tickcolor": "#B8C0C8",
    }
    axis["automargin"] = True
    return {
        "template": "none",
        "height": height,
        "margin": {"l": 60, "r": 16, "t": 28, "b": 56},
        "font": {"family": _FONT, "size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": {**axis, "title": {"text": x, "standoff": 10}},
        "yaxis": {**axis, "title": {"text": y, "standoff": 10}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.2, "yanchor": "top"},
        "hovermode": "closest",
    }


def _html(traces: Sequence[Any], layout: dict[str, Any], identifier: str) -> str:
    import plotly.graph_objects as go

    figure = go.Figure(data=list(traces), layout=layout)
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=config, div_id=identifier))


def _scatter(points: Sequence[tuple[float, float]], name: str, **options: Any) -> Any:
    import plotly.graph_objects as go

    hover = options.pop("hovertemplate", "%{x:.3f} ms, %{y:.2f} %<extra>" + name + "</extra>")
    x, y = [point[0] for point in points], [point[1] for point in points]
    return go.Scatter(x=x, y=y, name=name, hovertemplate=hover, **{"mode": "markers", **options})


def budget_line(layout: dict[str, Any], max_ms: float, label: str) -> None:
    """Draw a budget into a layout as a vertical dashed line with its text."""
    layout["shapes"] = [
        {
            "type": "line", "xref": "x", "yref": "paper", "x0": max_ms, "x1": max_ms, "y0": 0, "y1": 1,
            "line": {"color": VERMILION, "width": 2, "dash": "dash"},
        }
    ]  # fmt: skip
    layout["annotations"] = [
        {
            "x": max_ms, "xref": "x", "y": 1, "yref": "paper", "text": label, "showarrow": False, "xanchor": "center",
            "yanchor": "bottom", "font": {"color": VERMILION, "size": 12},
        }
    ]  # fmt: skip


def front_figure(run: RunData, target: TargetData, identifier: str) -> str | None:
    """Accuracy against predicted latency: archive, front, artifacts as measured, and the budget; None without points."""
    points = points_of(run.archive, target)
    if not points:
        return None
    traces = [_archive_trace(points, kind, name, options) for kind, name, options in _KINDS]
    traces += [_bargains(points, target)]
    traces += [_measured_artifacts(target.artifacts)] if target.artifacts else []
    layout = _layout(f"Predicted latency ({target.unit})", "Validation accuracy (%)", 440)
    if target.max_ms is not None:
        statistic = (target.budget or {}).get("statistic", "p50")
        budget_line(layout, target.max_ms, f"budget {target.max_ms:g} ms ({statistic})")
    return _html([trace for trace in traces if trace is not None], layout, identifier)


_KINDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("older", "Earlier supernet", {"marker": {"color": "#B3BCC5", "size": 6, "symbol": "circle-open"}}),
    ("fewer", "Read on fewer images", {"marker": {"color": "#B7D3E3", "size": 6, "symbol": "circle-open"}}),
    ("over", "Over a budget", {"marker": {"color": GREY, "size": 7, "symbol": "x-thin-open", "line": {"width": 1.5}}}),
    ("feasible", "Within budgets", {"marker": {"color": "#7FB8D8", "size": 7, "symbol": "circle"}}),
    (
        "front",
        "Front",
        {
            "mode": "lines+markers",
            "line": {"color": BLUE, "width": 2, "shape": "hv"},
            "marker": {"color": BLUE, "size": 9},
        },
    ),
)


def _archive_trace(points: Sequence[Point], kind: str, name: str, options: dict[str, Any]) -> Any:
    chosen = [(point.latency_ms, 100 * point.accuracy) for point in points if point.kind == kind]
    return _scatter(chosen, name, **options) if chosen else None


def _bargains(points: Sequence[Point], target: TargetData) -> Any:
    """Return the members of ``front.json`` of high trade-off, or None."""
    names = {member.get("id") for member in target.front.get("members") or [] if member.get("high_trade_off")}
    chosen = [(point.latency_ms, 100 * point.accuracy) for point in points if names and point.identifier in names]
    marker = {"color": GREEN, "size": 13, "symbol": "diamond-open", "line": {"width": 2}}
    return _scatter(chosen, "High trade-off", marker=marker) if chosen else None


def _measured_artifacts(artifacts: Sequence[ArtifactData]) -> Any:
    rows = []
    for artifact in artifacts:
        accuracy = artifact.manifest.accuracy
        if accuracy is not None and accuracy.validation is not None:
            rows.append((artifact, 100 * accuracy.validation))
    if not rows:
        return None
    measured = [artifact.manifest.measured for artifact, _ in rows]
    return _scatter(
        [(one.value, y) for one, (_, y) in zip(measured, rows, strict=True)],
        "Artifact, measured",
        marker={"color": ORANGE, "size": 15, "symbol": "star", "line": {"color": INK, "width": 1}},
        error_x=_bars([one.value for one in measured], [one.low for one in measured], [one.high for one in measured]),
        text=[artifact.label for artifact, _ in rows],
        hovertemplate="%{text}<br>%{x:.3f} ms measured, %{y:.2f} %<extra></extra>",
    )


def _bars(value: Sequence[float], low: Sequence[float], high: Sequence[float], color: str = INK) -> dict[str, Any]:
    up = [max(0.0, h - v) for v, h in zip(value, high, strict=True)]
    down = [max(0.0, v - lo) for v, lo in zip(value, low, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": up,
        "arrayminus": down,
        "thickness": 1,
        "width": 2,
        "color": color,
    }


def _evaluation_points(evaluation: dict[str, Any], held_out: bool) -> list[dict[str, Any]]:
    keys = ("measured", "predicted", "low", "high")
    points = [point for point in evaluation.get("points") or [] if bool(point.get("held_out")) is held_out]
    return [point for point in points if all(isinstance(point.get(key), int | float) for key in keys)]


def prediction_figure(target: TargetData, identifier: str) -> str | None:
    """Predicted against measured latency with intervals: held-out networks, training networks, artifacts."""
    import plotly.graph_objects as go

    traces, largest, smallest = [], 0.0, float("inf")
    groups = (("Training network", False, "#A9B4BF", "circle", 5), ("Held-out network", True, BLUE, "circle", 8))
    for name, held_out, color, symbol, size in groups:
        points = _evaluation_points(target.evaluation, held_out)
        if not points:
            continue
        columns = {key: [float(point[key]) for point in points] for key in ("measured", "predicted", "low", "high")}
        traces.append(_prediction_trace(columns, name, color, symbol, size, bars=held_out))
        largest, smallest = max(largest, *columns["measured"]), min(smallest, *columns["measured"])
    known = [entry.manifest for entry in target.artifacts if entry.manifest.predicted is not None]
    if known:
        columns = {"measured": [entry.measured.value for entry in known]}
        for key, attribute in (("predicted", "value"), ("low", "low"), ("high", "high")):
            columns[key] = [float(getattr(entry.predicted, attribute)) for entry in known]
        traces.append(_prediction_trace(columns, "Artifact", ORANGE, "star", 14, bars=True))
        largest, smallest = max(largest, *columns["measured"]), min(smallest, *columns["measured"])
    if not traces:
        return None
    ends = [0.9 * smallest, 1.08 * largest]
    diagonal = go.Scatter(
        x=ends, y=ends, mode="lines", name="Equal", line={"color": GREY, "dash": "dot", "width": 1.5}, hoverinfo="skip"
    )
    return _html(
        [diagonal, *traces],
        _layout(f"Measured latency ({target.unit})", f"Predicted latency ({target.unit})", 440),
        identifier,
    )


def _prediction_trace(
    columns: dict[str, list[float]], name: str, color: str, symbol: str, size: int, *, bars: bool
) -> Any:
    options: dict[str, Any] = {"marker": {"color": color, "size": size, "symbol": symbol}}
    if name == "Artifact":
        options["marker"]["line"] = {"color": INK, "width": 1}
    if bars:
        options["error_y"] = _bars(columns["predicted"], columns["low"], columns["high"], color)
    hover = "measured %{x:.3f} ms<br>predicted %{y:.3f} ms<extra>" + name + "</extra>"
    points = list(zip(columns["measured"], columns["predicted"], strict=True))
    return _scatter(points, name, hovertemplate=hover, **options)


def blocks_figure(artifact: ArtifactData, identifier: str) -> str | None:
    """Milliseconds of each block of one artifact, in order of execution from the top."""
    import plotly.graph_objects as go

    if not artifact.blocks:
        return None
    names, values = [name for name, _ in artifact.blocks], [ms for _, ms in artifact.blocks]
    total = sum(value for value in values if value > 0) or 1.0
    bar = go.Bar(
        x=values, y=names, orientation="h", marker={"color": BLUE}, text=[f"{100 * value / total:.0f} %" for value in values],
        textposition="outside", cliponaxis=False, hovertemplate="%{y}: %{x:.4f} ms (%{text})<extra></extra>",
    )  # fmt: skip
    layout = _layout("Latency (ms)", "", 90 + 22 * len(names))
    layout["yaxis"] |= {"autorange": "reversed", "type": "category", "ticks": "", "dtick": 1}
    layout["margin"] |= {"t": 10, "r": 48}
    layout["bargap"] = 0.3
    return _html([bar], layout, identifier)


def history_figure(run: RunData, key: str, label: str, identifier: str) -> str | None:
    """One number of the search history over iterations; None where no iteration has it."""
    rows = [(record.get("iteration", index), record.get(key)) for index, record in enumerate(run.history)]
    points = [(float(x), float(y)) for x, y in rows if isinstance(x, int | float) and isinstance(y, int | float)]
    if not points:
        return None
    trace = _scatter(
        points, label, mode="lines+markers", line={"color": BLUE, "width": 2}, marker={"color": BLUE, "size": 8},
        hovertemplate="iteration %{x}: %{y:.4f}<extra></extra>",
    )  # fmt: skip
    layout = _layout("Iteration", label, 320)
    layout["margin"]["t"] = 16
    layout["xaxis"]["tickformat"] = "d"
    if len(points) <= 20:
        layout["xaxis"]["dtick"] = 1
    return _html([trace], layout, identifier)


def training_figure(training: dict[str, Any], identifier: str) -> str | None:
    """Mean loss over the steps of supernet training, phases marked; None without a history."""
    points = [
        (float(entry[0]), float(entry[1]))
        for entry in training.get("history") or []
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(value, int | float) for value in entry)
    ]
    if not points:
        return None
    hover = "step %{x}: %{y:.4f}<extra></extra>"
    trace = _scatter(points, "Loss", mode="lines", line={"color": GREEN, "width": 2}, hovertemplate=hover)
    layout = _layout("Step", "Mean training loss", 320)
    layout["yaxis"]["rangemode"] = "tozero"
    layout["shapes"], layout["annotations"], start = [], [], 0
    for number, phase in enumerate(training.get("phases") or []):
        if number:
            line = {"color": "#CBD2D9", "width": 1}
            layout["shapes"].append(
                {"type": "line", "xref": "x", "yref": "paper", "x0": start, "x1": start, "y0": 0, "y1": 1, "line": line}
            )
        layout["annotations"].append(
            {
                "x": start, "y": 1, "xref": "x", "yref": "paper", "text": str(phase.get("name", "")), "showarrow": False,
                "xanchor": "left", "yanchor": "bottom", "textangle": -30, "font": {"size": 11, "color": "#52606D"},
            }
        )  # fmt: skip
        start += int(phase.get("steps") or 0)
    layout["margin"]["t"] = 64
    return _html([trace], layout, identifier)
