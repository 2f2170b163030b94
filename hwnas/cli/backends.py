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


@app.command("check")
def check(
    name: NameArgument,
    device: Annotated[str, typer.Option(help="Device whose runtime is tried.")] = "local",
    as_json: JsonFlag = False,
) -> None:
    """Try a backend on a device: export a small trained network, run, compare with torch, time. Exits 1 if it does not work."""
    from hwnas import api

    report = api.check_backend(name, device)
    if as_json:
        print_json(report)
    else:
        columns = ("error", "same_class", "median", "unit", "kernels", "in_blocks")
        rows = [
            (precision, *(found.get(key, "") for key in columns), "works" if found["works"] else "does not work")
            for precision, found in report.items()
        ]
        print_table(f"{name} on {device}", ("precision", *columns, "state"), rows)
        for precision, found in report.items():
            for note in (*filter(None, [found["failure"]]), *found.get("notes", ())):
                print(f"  {precision}: {note}")
    if not all(found["works"] for found in report.values()):
        raise typer.Exit(1)


@app.command("remove")
def remove(name: NameArgument, as_json: JsonFlag = False) -> None:
    """Delete the environment of a backend's converter; it is made again when it is needed."""
    from hwnas import api

    freed = api.remove_backend(name)
    if as_json:
        print_json({"freed_bytes": freed})
    else:
        print(f"freed {freed / 1e6:.1f} MB")
