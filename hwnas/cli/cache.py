"""``hwnas cache``: what is kept outside run folders."""

from __future__ import annotations

from typing import Annotated

import typer

from hwnas.cli._common import JsonFlag, print_json, print_table

app = typer.Typer(help="Show or clear what is kept outside run folders.", invoke_without_command=True)


@app.callback()
def show(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show what the cache holds."""
    if context.invoked_subcommand is not None:
        return
    from hwnas import api

    result = api.cache_contents()
    if as_json:
        print_json(result)
    else:
        print_table(
            f"cache {result['folder']}",
            ("what", "MB"),
            [(name, size / 1e6) for name, size in result["size_bytes"].items()],
        )


@app.command("clear")
def clear(
    name: Annotated[str | None, typer.Argument(help="Only this entry (default: everything).")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Delete what the cache holds; it is made again when needed. Run folders and tables are never touched."""
    from hwnas import api

    freed = api.clear_cache(name)
    if as_json:
        print_json({"freed_bytes": freed})
    else:
        print(f"freed {freed / 1e6:.1f} MB")
