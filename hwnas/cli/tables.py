"""``hwnas tables``: the latency tables this installation can find."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli._common import (
    JsonFlag,
    PrecisionOption,
    SetOption,
    SpaceOption,
    TableFolderOption,
    TargetOption,
    print_difference,
    print_fitted,
    print_json,
    print_stored,
    print_table,
)

app = typer.Typer(help="List, show, compare, merge, import and transfer latency tables.", no_args_is_help=True)


@app.command("ls")
def ls(
    folder: Annotated[Path | None, typer.Argument(help="Look here too, for example runs/demo/tables.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List tables: those of a folder, of the user's data folder, and those shipped."""
    from hwnas import api

    entries = api.list_tables(folder)
    if as_json:
        print_json(entries)
    else:
        columns = ("target", "space", "networks", "machine", "from", "folder")
        print_table("tables", columns, [tuple(entry[column] for column in columns) for entry in entries])


@app.command("show")
def show(
    folder: Annotated[Path, typer.Argument(help="Folder that holds table.jsonl.")], as_json: JsonFlag = False
) -> None:
    """Show one table: target, machine, rows, range, grades and the accuracy of its model."""
    from hwnas import api

    result = api.show_table(folder)
    if as_json:
        print_json(result)
    else:
        print_stored(str(folder), result)


@app.command("diff")
def diff(
    first: Annotated[Path, typer.Argument(help="Folder of a table.")],
    second: Annotated[Path, typer.Argument(help="Folder of another.")],
    as_json: JsonFlag = False,
) -> None:
    """Compare two tables network by network."""
    from hwnas import api

    result = api.diff_tables(first, second)
    if as_json:
        print_json(result)
    else:
        print_difference(f"{second} against {first}", result)


@app.command("merge")
def merge(
    first: Annotated[Path, typer.Argument(help="Folder of a table.")],
    second: Annotated[Path, typer.Argument(help="Folder of another of the same target and machine.")],
    output: Annotated[Path, typer.Option(help="Folder of the merged table.")],
    as_json: JsonFlag = False,
) -> None:
    """Merge two tables of one target and machine."""
    from hwnas import api

    result = api.merge_tables(first, second, output)
    if as_json:
        print_json(result)
    else:
        print(f"{result['networks']} networks in {result['folder']}")


@app.command("import")
def import_rows(
    rows: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help='One network a line: {"encoding": [...]} or {"architecture": {...}}, with latency_ms, perhaps low_ms and high_ms; '
            "or an .npz file of HELP's columns of Once-for-All's networks; or Once-for-All's YAML tables of blocks, a file or a folder.",
        ),
    ],
    target: TargetOption,
    space: SpaceOption = "mobilenetv3",
    machine: Annotated[str, typer.Option(help="Machine they were measured on: 'Pixel 3, Cortex-A76'. Needed.")] = "",
    runtime_version: Annotated[str | None, typer.Option(help="Version of the runtime, for example 2.1.")] = None,
    held_out: Annotated[float, typer.Option(help="Share of the networks that only judge the model.")] = 0.2,
    coarse: Annotated[bool, typer.Option("--coarse", help="Take latencies that a coarse clock read.")] = False,
    column: Annotated[str | None, typer.Option(help="Column of an .npz file, for example titan_rtx_1.")] = None,
    architectures: Annotated[
        Path | None, typer.Option(help="JSON list of its networks (default: X_arch.json beside X_latency.npz).")
    ] = None,
    networks: Annotated[
        int | None, typer.Option(min=10, help="Most networks to take; of a table of blocks, to compose (default: 300).")
    ] = None,
    unit: Annotated[str, typer.Option(help="Unit of an .npz file or a table of blocks: ms, us or s.")] = "ms",
    precision: PrecisionOption = None,
    overrides: SetOption = [],
    output: TableFolderOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make table and latency model of networks that you or others measured, on any device."""
    from hwnas import api

    result = api.import_rows(
        rows,
        target,
        space,
        machine=machine,
        runtime_version=runtime_version,
        held_out=held_out,
        coarse=coarse,
        column=column,
        architectures=architectures,
        networks=networks,
        unit=unit,
        precision=precision,
        overrides=overrides,
        output=output,
    )
    print_fitted(result, as_json)


@app.command("transfer")
def transfer(
    target: TargetOption,
    space: SpaceOption = "mobilenetv3",
    sources: Annotated[
        list[Path], typer.Option("--from", help="Folder of a table to transfer from; all of this space by default.")
    ] = [],
    networks: Annotated[int, typer.Option(min=10, help="Networks to measure and fit on.")] = 20,
    held_out: Annotated[int, typer.Option(min=0, help="Networks to measure and judge by.")] = 10,
    precision: PrecisionOption = None,
    overrides: SetOption = [],
    output: TableFolderOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the latency model of a new target from tables of other targets and 10 to 50 measurements.

    The same command resumes. ``--set`` takes what it takes for ``hwnas profile``.
    """
    from hwnas import api

    result = api.transfer_table(
        target,
        space,
        sources=sources,
        networks=networks,
        held_out=held_out,
        precision=precision,
        overrides=overrides,
        output=output,
    )
    print_fitted(result, as_json)
