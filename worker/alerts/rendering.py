"""The templates of mails and notifications, compiled once a process, and a text made from one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from worker.alerts import words


@cache
def templates() -> Environment:
    """All templates with their words. A process compiles each once; :func:`preload` does it ahead of a fork."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words.FILTERS)
    return environment


def preload() -> None:
    """Compile all templates now: 75 ms that a job of a forking worker would pay for each time."""
    for name in templates().list_templates():
        templates().get_template(name)


def rendered(name: str, told: Mapping[str, Any]) -> str:
    """The template ``name``, ``email/alert/body.txt``, told with ``told``; it ends in one line end."""
    text = templates().get_template(name).render(told)
    # What a condition left out has left an empty line behind.
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
