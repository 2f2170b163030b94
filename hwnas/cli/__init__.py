"""The command line: one module per verb; it parses, calls the public function of the same name, and prints."""

from __future__ import annotations

import os
import sys

import typer

from hwnas.cli import (
    backends,
    cache,
    check,
    compare,
    devices,
    export,
    finetune,
    fit,
    measure,
    predict,
    profile,
    report,
    run,
    search,
    tables,
    train,
    verify,
    zoo,
)
from hwnas.errors import HwnasError

app = typer.Typer(
    name="hwnas",
    help="Profile a device, search under latency budgets, export artifacts that were measured to keep them.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(devices.app, name="devices")
app.add_typer(backends.app, name="backends")
app.command("profile")(profile.profile)
app.command("fit")(fit.fit)
app.command("predict")(predict.predict)
app.command("measure")(measure.measure)
app.command("check")(check.check)
app.command("train")(train.train)
app.command("search")(search.search)
app.command("finetune")(finetune.finetune)
app.command("export")(export.export)
app.command("verify")(verify.verify)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.add_typer(tables.app, name="tables")
app.add_typer(zoo.app, name="zoo")
app.add_typer(cache.app, name="cache")
app.command("run")(run.run)


def main() -> None:
    """Run the command line; errors of a person's making have no traceback and leave with their exit code."""
    sys.path.append(os.getcwd())  # pkg.mod:function is found beside the run file, as with python -m
    try:
        app()
    except HwnasError as error:
        print(f"hwnas: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
