"""Cards: Markdown from templates that lie in a package's ``templates`` folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(package: str, template: str, filters: Mapping[str, Callable[..., str]], **values: Any) -> str:
    """Return a filled template, ending in one line break.

    Args:
        package: Package that holds it, for example ``hwnas.artifacts``.
        template: Its file name.
        filters: Filters it uses, by name.
        **values: What it shows; a missing one is an error.
    """
    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(**values).rstrip() + "\n"
