"""rq-dashboard at ``/rq``, behind the same door as everything else.

The package has no sign-in, connects to Redis anew for every request without any timeout, shows the URL of Redis, and
puts job descriptions into its pages unescaped (upstream issue 526). So its requests use our client, the URL it knows
is a made-up one, and its scripts run by a nonce, which foreign text cannot have.
"""

from __future__ import annotations

import re
import secrets

import rq_dashboard
from flask import Flask, Response, request

from api.errors import not_found, shown
from api.services import Services, services

_SHOWN_URL = "redis://(as configured)"
_REGISTRIES = ("queued", "failed", "deferred", "started", "finished", "canceled", "scheduled")
_PAGE_NUMBER = re.compile(r"[1-9][0-9]{0,2}")
_INLINE_SCRIPT = '<script type="text/javascript">'


def register(app: Flask) -> None:
    at_hand: Services = app.extensions["monitor"]
    app.register_blueprint(rq_dashboard.blueprint, url_prefix="/rq")
    # In place of the package's own function, which opens a connection of its own.
    app.before_request_funcs["rq_dashboard"] = [_prepare]
    app.after_request_funcs["rq_dashboard"] = [_add_policy]
    app.config["RQ_DASHBOARD_REDIS_URL"] = (_SHOWN_URL,)
    app.redis_conn = at_hand.redis  # type: ignore[attr-defined] # the attribute by which the package finds its client


def _prepare() -> None:
    """Refuse what the package would answer with 500, or with a page that says "Connection Error" and 200."""
    asked = request.view_args or {}
    at_hand = services()
    at_hand.redis.ping()
    if asked.get("instance_number", 0) != 0:
        raise not_found("there is one Redis, number 0")
    if asked.get("registry_name", "queued") not in _REGISTRIES:
        raise not_found(f"there is no registry {shown(asked['registry_name'])}")
    if not all(_PAGE_NUMBER.fullmatch(str(asked.get(name, 1))) for name in ("page", "per_page")):
        raise not_found("pages are numbered from 1, and at most 999 long")
    if "job_id" in asked and at_hand.queues.status(asked["job_id"]) == (None, None):
        raise not_found(f"there is no job {shown(asked['job_id'])}")


def _add_policy(response: Response) -> Response:
    if response.mimetype == "text/html":
        nonce = secrets.token_urlsafe(16)
        page = response.get_data(as_text=True)
        response.set_data(page.replace(_INLINE_SCRIPT, f'<script nonce="{nonce}" type="text/javascript">', 1))
        # Its templates are compiled in the browser ('unsafe-eval') and have style attributes.
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    return response
