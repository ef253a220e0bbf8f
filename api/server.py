"""The configuration of gunicorn: ``gunicorn -c python:api.server``; it reads the settings of this process.

One process with threads, because pages stream events; every thread waits for Redis or for a reader, never computes.
"""

from __future__ import annotations

import gc
import json
from typing import Any

from gunicorn import util  # type: ignore[import-untyped] # no types, as below
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException  # type: ignore[import-untyped]
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from shared.settings import SettingsError, read_settings


class Worker(ThreadWorker):  # type: ignore[misc]
    """Ends the event streams when the server stops, and refuses what is no HTTP as JSON."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._end_streams()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """As SIGTERM: gunicorn's own takes the lock of the thread pool, which the interrupted loop may be holding."""
        self.handle_exit(sig, frame)

    def _end_streams(self) -> None:
        app = getattr(self, "wsgi", None)
        if app is not None:
            app.extensions["streams"].is_closing = True

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:  # noqa: ARG002 - gunicorn's
        """What gunicorn could not even read; its own answer would be an HTML page."""
        if not isinstance(exc, ParseException):
            self.log.error("a request failed", exc_info=exc)
        status, reason = _judge(exc)
        body = json.dumps({"category": "error", "data": {"errors": [{"loc": [], "msg": reason}]}, "message": reason})
        head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        try:
            util.write_nonblock(client, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        except OSError:
            self.log.debug("the client went away before it was told of its error")


def _judge(error: Exception) -> tuple[str, str]:
    """The status line and what is wrong, without a word of the request."""
    if isinstance(error, LimitRequestLine):
        return "414 URI Too Long", f"the request line must be at most {limit_request_line} bytes long"
    if isinstance(error, LimitRequestHeaders):
        return "431 Request Header Fields Too Large", "the headers are too large"
    if isinstance(error, ParseException):
        return "400 Bad Request", "this is not HTTP as RFC 9112 has it"
    return "500 Internal Server Error", "the monitor failed at this request; its log says why"


def post_worker_init(worker: ThreadWorker) -> None:  # noqa: ARG001 - gunicorn's
    """Take what the app is made of out of the garbage collector's sight.

    It would look through all of it whenever enough pages were made, and hold up one answer in thirty for 45 ms.
    """
    gc.collect()
    gc.freeze()


try:
    _settings = read_settings()
except SettingsError as error:
    raise SystemExit(str(error)) from None

wsgi_app = "api:create_app()"
bind = [
    f"[{_settings.api_host}]:{_settings.api_port}"
    if ":" in _settings.api_host
    else f"{_settings.api_host}:{_settings.api_port}"
]
workers = 1
worker_class = "api.server.Worker"
threads = 32
worker_connections = 512
timeout = 60
graceful_timeout = 10
keepalive = 5
limit_request_line = 8190
accesslog = None
errorlog = "-"
loglevel = "warning"
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
control_socket_disable = True
proc_name = "http-monitoring"
