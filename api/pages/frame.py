"""What all pages have in common: how they are sent, their links above a table, and what stands there without Redis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from flask import Response, render_template
from redis.exceptions import RedisError

from api.errors import RETRY_AFTER_SECONDS
from api.pages.words import clock
from api.services import now_ms

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def render(template: str, status: int, *, has_form: bool = False, **values: Any) -> Response:
    """The template as a page; only one that ``has_form`` may send it, and to this site alone."""
    policy = _POLICY.replace("form-action 'none'", "form-action 'self'") if has_form else _POLICY
    return Response(
        render_template(template, **values), status, mimetype="text/html", headers={"Content-Security-Policy": policy}
    )


def away() -> Response:
    """503 as a page: Redis does not answer."""
    page = render("away.html", 503, now=clock(now_ms()))
    page.headers["Retry-After"] = RETRY_AFTER_SECONDS
    return page


def unless_away(view: Callable[..., Response]) -> Callable[..., Response]:
    """The view, or 503 as a page when Redis is away."""

    @wraps(view)
    def shown(**path: str) -> Response:
        try:
            return view(**path)
        except RedisError:
            return away()

    return shown


@dataclass(frozen=True, slots=True)
class Filter:
    """One link above the table."""

    name: str
    url: str
    count: int
    is_chosen: bool
