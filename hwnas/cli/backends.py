"""``hwnas backends``: what makes model files here, and the environments of their converters."""

from __future__ import annotations

from typing import Annotated

import typer

from hwnas.cli._common import JsonFlag, print_json, print_table

app = typer.Typer(
    help="Show what makes model files; install or remove converters' environments.", invoke_without_command=True
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of a backend, for example litert.")]


@app.callback()
def show(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show every backend: its precisions, and whether its converter is ready."""
    if context.invoked_subcommand is not None:
        return
    from hwnas import api

    report = api.backends()
    if as_json:
        print_json(report)
        return
    print_table(
        "backends",
        ("backend", "precisions", "state"),
        [(name, ", ".join(entry["precisions"]), entry["state"]) for name, entry in report.items()],
    )


@app.command("install")
def install(name: NameArgument, as_json: JsonFlag = False) -> None:
    """Make the environment of a backend's converter now; else it is made when it is first used."""
    from hwnas import api

    report = api.install_backend(name)
    if as_json:
        print_json(report)
    else:
        print(f"{name}: {report['state']}")


@app.command("remove")
def remove(name: NameArgument, as_json: JsonFlag = False) -> None:
    """Delete the environment of a backend's converter; it is made again when it is needed."""
    from hwnas import api

    freed = api.remove_backend(name)
    if as_json:
        print_json({"freed_bytes": freed})
    else:
        print(f"freed {freed / 1e6:.1f} MB")
