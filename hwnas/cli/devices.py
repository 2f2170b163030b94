"""``hwnas devices``: what can be reached, and what installs what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli._common import JsonFlag, print_json, print_table

app = typer.Typer(help="Show every device and runtime reachable, or add a device.", invoke_without_command=True)


@app.callback()
def show(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show every device and runtime reachable, or the exact line that installs what is missing."""
    if context.invoked_subcommand is not None:
        return
    from hwnas import api

    report = api.devices()
    if as_json:
        print_json(report)
        return
    for name, entry in report.items():
        title = f"{name}: {entry['identity'].get('cpu_model', entry['error'])}"
        rows = [
            (runtime, "yes" if status["available"] else "no", status["version"] or status["install"])
            for runtime, status in entry["runtimes"].items()
        ]
        print_table(title, ("runtime", "available", "version, or what installs it"), rows)
        for limit in entry["limits"]:
            print(f"  note: {limit}")


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Name you will use in targets.")],
    ssh: Annotated[str | None, typer.Option(help="Destination of the system ssh, for example pi@raspberrypi.")] = None,
    command: Annotated[str | None, typer.Option(help="Command prefix, for example 'docker exec -i box'.")] = None,
    python: Annotated[str, typer.Option(help="Python interpreter on the device.")] = "",
    port: Annotated[int | None, typer.Option(help="ssh port.")] = None,
    identity_file: Annotated[Path | None, typer.Option(help="ssh private key.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Add a device: push the agent, greet it, print fingerprint and runtimes, and remember it."""
    from hwnas import api

    report = api.add_device(name, ssh=ssh, command=command, python=python, port=port, identity_file=identity_file)
    if as_json:
        print_json(report)
    else:
        print_table(f"{name} answers", ("what", "value"), sorted(report["identity"].items()))
        print_table(
            "runtimes",
            ("runtime", "available", "version, or what installs it"),
            [
                (key, "yes" if status["available"] else "no", status["version"] or status["install"])
                for key, status in report["runtimes"].items()
            ],
        )
