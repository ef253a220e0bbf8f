"""Who may call what: one table of routes, and the guard that holds every request against it."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from ipaddress import ip_address
from urllib.parse import parse_qsl

from flask import Flask, Request, Response, g, request

from api import strict_json
from api.errors import RefusalError, shown
from api.services import services

LARGEST_BODY = 1024 * 1024
"""Bytes."""
LARGEST_FORM = 32 * 1024
"""Bytes; a note of a thousand characters may take twelve thousand of them."""


class Asks(Enum):
    """What a route asks of its caller."""

    NOTHING = "anyone may ask"
    SIGN_IN = "the token, where one is set"
    SAME_SITE = "the token, and a request that no other site has sent: it changes something"
    LINK = "a signed link in place of the token, and a request that no other site has sent"
    CLOSED = "never answered: it changes something and cannot be told from a link"


_OPEN = {"GET": Asks.NOTHING}
_READ = {"GET": Asks.SIGN_IN}
_WRITE = {"POST": Asks.SAME_SITE}

ROUTES: dict[str, dict[str, Asks]] = {
    "/": _READ,
    "/targets/<id>": _READ | _WRITE,
    "/outbox": _READ | _WRITE,
    # What a signed link leads to is styled by these, and nothing in them is secret.
    "/static/<path:filename>": _OPEN,
    "/incidents": _READ,
    "/incidents/<id>": _READ,
    "/incidents/<id>/acknowledge": _WRITE,
    # Its GET changes nothing: mail scanners follow links.
    "/acknowledge": _OPEN | {"POST": Asks.LINK},
    # the original routes
    "/status": _READ | _WRITE,
    "/status/queue": _READ | _WRITE,
    "/emails": {"GET": Asks.SAME_SITE, "POST": Asks.SAME_SITE},
    # the API proper
    "/api/v1/targets": _READ | _WRITE,
    "/api/v1/targets/<id>": _READ | {"PATCH": Asks.SAME_SITE, "DELETE": Asks.SAME_SITE},
    "/api/v1/targets/<id>/results": _READ,
    "/api/v1/targets/<id>/failures": _READ,
    "/api/v1/targets/<id>/check": _WRITE,
    "/api/v1/check": _WRITE,
    "/api/v1/maintenance": _READ | _WRITE,
    "/api/v1/maintenance/<id>": _READ | {"PUT": Asks.SAME_SITE, "DELETE": Asks.SAME_SITE},
    "/api/v1/incidents": _READ,
    "/api/v1/incidents/<id>": _READ,
    "/api/v1/incidents/<id>/acknowledge": _WRITE,
    "/api/v1/outbox": _READ,
    "/api/v1/outbox/<id>/retry": _WRITE,
    "/events": _READ,
    "/openapi.json": _READ,
    "/docs": _READ,
    "/docs/swagger/<path:filename>": _READ,
    # machines
    "/livez": _OPEN,
    "/readyz": _OPEN,
    "/metrics": _READ,
    # rq-dashboard
    "/rq/": _READ,
    "/rq/favicon.ico": _READ,
    "/rq/static/<path:filename>": _READ,
    "/rq/<int:instance_number>/": _READ,
    "/rq/<int:instance_number>/view": _READ,
    "/rq/<int:instance_number>/view/queues": _READ,
    "/rq/<int:instance_number>/view/workers": _READ,
    "/rq/<int:instance_number>/view/jobs": _READ,
    "/rq/<int:instance_number>/view/jobs/<queue_name>/<registry_name>/<int:per_page>/<order>/<int:page>": _READ,
    "/rq/<int:instance_number>/view/job/<job_id>": _READ,
    "/rq/<int:instance_number>/data/queues.json": _READ,
    "/rq/<int:instance_number>/data/workers.json": _READ,
    "/rq/<int:instance_number>/data/jobs/<queue_name>/<registry_name>/<per_page>/<order>/<page>.json": _READ,
    "/rq/<int:instance_number>/data/job/<job_id>.json": _READ,
    "/rq/job/<job_id>/delete": _WRITE,
    "/rq/job/<job_id>/requeue": _WRITE,
    "/rq/requeue/<queue_name>": {"GET": Asks.CLOSED, "POST": Asks.SAME_SITE},
    "/rq/queue/<queue_name>/<registry_name>/empty": _WRITE,
    "/rq/queue/<queue_name>/compact": _WRITE,
}
"""For every rule of the URL map, what each of its methods asks; HEAD is GET, and OPTIONS a SIGN_IN."""


class StrictRequest(Request):
    """A request whose JSON and forms are strict."""

    def get_json(self, *_: object, **__: object) -> object:
        """The body, which must be one JSON object; raises RefusalError (415, 400, 413) also where Flask is silent."""
        _check_media_type(self, "application/json")
        body = self._read()
        _check_length(len(body))
        try:
            document = strict_json.parse(body)
        except strict_json.NotStrictJsonError as error:
            raise RefusalError(400, str(error)) from None
        if not isinstance(document, dict):
            raise RefusalError(422, f"the body must be a JSON object (it is {shown(document)})")
        g.document = document
        return document

    def get_form(self, *names: str) -> dict[str, str]:
        """The fields of a form of these names, each once at the most, "" for those that were not sent.

        Line ends are spaces, and there are none around a value. Raises RefusalError (415, 413, 422).
        """
        _check_media_type(self, "application/x-www-form-urlencoded")
        if (self.content_length or 0) > LARGEST_FORM or len(body := self._read()) > LARGEST_FORM:
            raise RefusalError(413, f"a form must be at most {LARGEST_FORM // 1024} KiB")
        try:
            sent = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=len(names))
        except ValueError:  # also UnicodeDecodeError
            raise RefusalError(422, f"the form must be UTF-8 and have at most {len(names)} fields") from None
        fields = dict.fromkeys(names, "")
        for name, value in sent:
            if fields.get(name) != "":
                raise RefusalError(422, f"{shown(name)} is given more than once, or not a field of this form")
            fields[name] = " ".join(value.split())
        return fields

    def _read(self) -> bytes:
        try:
            return self.get_data()
        except OSError:  # gunicorn's, for chunks that are none.
            raise RefusalError(400, "the body could not be read; it is not framed as its headers say") from None


def register(app: Flask) -> None:
    app.request_class = StrictRequest
    # Werkzeug cuts a body without Content-Length off here and says nothing; the one byte more tells.
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY + 1
    app.before_request(guard)
    app.after_request(add_headers)


def guard() -> None:
    """Hold the request against the table; raises RefusalError. The order is from whom to what."""
    settings = services().settings
    asks = _asked()
    if settings.api_token is None:
        _check_host(settings.api_allowed_hosts)
    elif asks not in (Asks.NOTHING, Asks.LINK):
        _check_token(settings.api_token.get_secret_value())
    if asks is Asks.CLOSED:
        raise RefusalError(405, f"{request.method} is not possible here", headers={"Allow": _open_methods()})
    if asks in (Asks.SAME_SITE, Asks.LINK):
        _check_same_site()
    _check_length(request.content_length or 0)
    _check_query()


def _asked() -> Asks:
    """What the route asks; what does not exist asks for the sign-in too, so that it tells strangers nothing."""
    if request.url_rule is None:
        return Asks.SIGN_IN
    if request.method == "OPTIONS":
        return Asks.SIGN_IN
    method = "GET" if request.method == "HEAD" else request.method
    return ROUTES.get(request.url_rule.rule, {}).get(method, Asks.CLOSED)


def _open_methods() -> str:
    found = ROUTES.get(request.url_rule.rule, {}) if request.url_rule else {}
    return ", ".join(method for method, asks in found.items() if asks is not Asks.CLOSED)


def _check_token(token: str) -> None:
    sent = request.authorization
    given = (sent.token if sent.type == "bearer" else sent.password if sent.type == "basic" else None) if sent else None
    if given is None or not hmac.compare_digest(given.encode(), token.encode()):
        challenges = ['Basic realm="http-monitoring", charset="UTF-8"', 'Bearer realm="http-monitoring"']
        raise RefusalError(
            401,
            "the token is missing or wrong; send it as 'Authorization: Bearer' or as the password of HTTP Basic",
            headers={"WWW-Authenticate": challenges},
        )


def _check_host(allowed: tuple[str, ...]) -> None:
    """Without a token only this machine may ask, and a page of another site must not pass for it (DNS rebinding)."""
    host = request.headers.get("Host", "").lower()
    if _is_loopback(_without_port(host)) or host in allowed or _without_port(host) in allowed:
        return
    raise RefusalError(
        403,
        f"Host must be a loopback address or one of API_ALLOWED_HOSTS while no API_TOKEN is set (it is {shown(host)})",
    )


def _without_port(host: str) -> str:
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_same_site() -> None:
    """Refuse what another site's page made a browser send; programs send neither header."""
    origin = request.headers.get("Origin")
    host = request.headers.get("Host", "")
    if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
        raise RefusalError(403, f"Origin must be this site's own (it is {shown(origin)})")
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None and site not in ("same-origin", "none"):
        raise RefusalError(403, f"Sec-Fetch-Site must be same-origin or none (it is {shown(site)})")


def _check_length(length: int) -> None:
    if length > LARGEST_BODY:
        raise RefusalError(413, "the body must be at most 1 MiB")


def _check_query() -> None:
    for name, values in request.args.lists():
        if len(values) > 1:
            raise RefusalError(
                422, f"{shown(name)} is given more than once", problems=[([name[:60]], "is given more than once")]
            )


def _check_media_type(of: StrictRequest, wanted: str) -> None:
    encoding = of.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise RefusalError(415, f"Content-Encoding must not be used (it is {shown(encoding)})")
    if of.mimetype != wanted:
        raise RefusalError(415, f"Content-Type must be {wanted} (it is {shown(of.mimetype or 'missing')})")
    charset = of.mimetype_params.get("charset", "utf-8")
    if charset.lower() not in ("utf-8", "utf8"):
        raise RefusalError(415, f"charset must be utf-8 (it is {shown(charset)})")


# --- limits ---


class Turnstile:
    """Lets at most ``size`` requests stay at once, so that those that stay long leave threads to all others."""

    def __init__(self, size: int, what: str) -> None:
        self._size = size
        self._what = what
        self._lock = threading.Lock()
        self.taken = 0

    def enter(self) -> None:
        """Take a place, to be given back by :meth:`leave`; raises RefusalError (429) when there is none."""
        with self._lock:
            if self.taken >= self._size:
                raise RefusalError(429, f"too many {self._what} at once", headers={"Retry-After": "10"})
            self.taken += 1

    def leave(self) -> None:
        with self._lock:
            self.taken -= 1

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()


# --- what every answer carries ---

_NOTHING_ALLOWED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def add_headers(response: Response) -> Response:
    """Headers that hold for every answer; a view may have set a policy of its own."""
    headers = response.headers
    headers.setdefault("Content-Security-Policy", _NOTHING_ALLOWED)
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("X-Frame-Options", "DENY")
    # "no-referrer" would make browsers send "Origin: null" with forms of our own pages.
    headers.setdefault("Referrer-Policy", "same-origin")
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    headers.setdefault("Cache-Control", "no-store")
    return response
