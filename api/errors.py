"""Every refusal, as JSON: the original shape on the original routes, RFC 9457 problems under ``/api/v1``.

A message names the thing, the rule and the value; of a value at most sixty characters are shown, and nothing that may
be a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from itertools import takewhile
from typing import Any

from flask import Flask, Response, current_app, g, request
from pydantic import ValidationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from shared.check import EXPECTATIONS, SECRETS, ContradictionError
from shared.endpoint import MASK, looks_secret, redact
from shared.monitor import MonitorError
from shared.store import TooMuchChangeError

MOST_TARGETS = 1000
"""In one request."""
_MOST_ERRORS = 20
_LONGEST_VALUE = 60
RETRY_AFTER_SECONDS = "5"
_OBJECT_WANTED = {"model_type", "model_attributes_type", "dict_type"}
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,40}")
_PART_OF_SECRET = re.compile("content|password|token|type|username")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}://")

Problem = tuple[Sequence[str | int], str]
"""Where it is (a path into the body, or the name of a parameter) and which rule it breaks."""


class RefusalError(MonitorError):
    """A request that is refused, before anything was changed."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        category: str = "error",
        problems: Sequence[Problem] = (),
        headers: Mapping[str, str | list[str]] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.category = category
        self.problems = problems or [((), message)]
        self.headers = headers or {}


def not_found(message: str) -> RefusalError:
    return RefusalError(404, message, category="not_found")


def invalid(loc: Sequence[str | int], rule: str, value: object) -> RefusalError:
    """422 for one value that the schema cannot judge."""
    sentence = f"{_name(loc)} {rule} (it is {shown(value)})"
    return RefusalError(422, sentence, problems=[(loc, sentence)])


def contradiction(error: ContradictionError, *loc: str | int) -> RefusalError:
    """409: what was sent is good by itself, and does not go together with what is there."""
    path = [*loc, error.field]
    sentence = f"{_name(path)} {error.rule}"
    return RefusalError(409, sentence, problems=[(path, sentence)])


def register(app: Flask) -> None:
    app.register_error_handler(RefusalError, answer)
    app.register_error_handler(HTTPException, _answer_http)
    for kind in (RedisConnectionError, RedisTimeoutError, OutOfMemoryError, ReadOnlyError):
        app.register_error_handler(kind, lambda _: answer(redis_is_away()))
    app.register_error_handler(TooMuchChangeError, _answer_race)
    app.register_error_handler(Exception, _answer_bug)


def answer(refusal: RefusalError) -> Response:
    """The refusal in the shape of the route that was asked.

    Original routes: ``{"category", "data": {"errors": [{"loc", "msg"}]}, "message"}``. Under ``/api/v1``:
    ``{"type", "title", "status", "detail", "errors": [{"loc", "msg"}]}``, RFC 9457.
    """
    errors = [{"loc": list(loc), "msg": message} for loc, message in refusal.problems]
    body: dict[str, Any]
    if request.path.startswith("/api/v1"):
        body = {
            "type": "about:blank",
            "title": HTTPStatus(refusal.status).phrase,
            "status": refusal.status,
            "detail": refusal.message,
            "errors": errors,
        }
        mimetype = "application/problem+json"
    else:
        body = {"category": refusal.category, "data": {"errors": errors}, "message": refusal.message}
        mimetype = "application/json"
    response = Response(json.dumps(body), refusal.status, mimetype=mimetype)
    for name, value in refusal.headers.items():
        for each in value if isinstance(value, list) else [value]:
            response.headers.add(name, each)
    return response


def redis_is_away() -> RefusalError:
    return RefusalError(
        503,
        "Redis does not answer, so nothing was read and maybe nothing written; try again in a moment",
        headers={"Retry-After": RETRY_AFTER_SECONDS},
    )


def _answer_http(error: HTTPException) -> Response | HTTPException:
    if error.code is None or error.code < 400:
        return error  # a redirect
    headers = {}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return answer(RefusalError(error.code, _message(error), headers=headers))


def _message(error: HTTPException) -> str:
    return {
        404: f"there is nothing at {shown(request.path)}",
        405: f"{shown(request.method)} is not possible here",
        413: "the body must be at most 1 MiB",
    }.get(error.code or 0, HTTPStatus(error.code or 500).phrase)


def _answer_race(error: TooMuchChangeError) -> Response:
    return answer(RefusalError(503, str(error), headers={"Retry-After": "1"}))


def _answer_bug(error: Exception) -> Response:
    current_app.logger.error("%s %s failed", request.method, request.path, exc_info=error)
    return answer(RefusalError(500, "the monitor failed at this request; its log says why"))


# --- what pydantic found ---


def refuse_invalid(error: ValidationError) -> Response:
    """What flask-openapi3 calls when a request does not fit its model; always raises RefusalError."""
    found = error.errors(include_url=False)
    if any(each["type"] == "too_long" and each["loc"] == ("targets",) for each in found):
        raise RefusalError(413, f"targets must be at most {MOST_TARGETS} in one request")
    problems = [_problem(each) for each in found[:_MOST_ERRORS]]
    message = problems[0][1]
    if len(found) > 1:
        message += f" (and {len(found) - 1} more)"
    raise RefusalError(422, message, problems=problems)


def _problem(found: Any) -> Problem:
    """One error of pydantic's as a path and a sentence; the value is told where it can be no secret."""
    path, context = _path(found), found.get("ctx", {})
    if isinstance(context.get("error"), ContradictionError):
        path.append(context["error"].field)
        return path, f"{_name(path)} {context['error'].rule}"
    if found["type"] in ("union_tag_not_found", "union_tag_invalid"):
        path.append(context["discriminator"].strip("'"))
    name = _name(path)
    if found["type"] in ("missing", "union_tag_not_found"):
        return path, f"{name} is missing"
    if found["type"] == "union_tag_invalid":
        return path, f"{name} must be one of {context['expected_tags']}"
    is_secret = not SECRETS.isdisjoint(path)
    if found["type"] == "extra_forbidden":
        return path, f"{name} {'has a field that is not known' if is_secret else 'is not a field'} here"
    if is_secret or _is_expectation(path):
        return path, f"{name} {_rule(found)}"
    return path, f"{name} {_rule(found)} (it is {shown(found['input'])})"


def _is_expectation(path: Sequence[str | int]) -> bool:
    """Whether it is what an assertion compares with, which may be a secret of the server's."""
    return "assertions" in path and path[-1] in EXPECTATIONS


def _rule(found: Any) -> str:
    if found["type"] in _OBJECT_WANTED:
        return "must be an object"
    if found["type"] in ("list_type", "tuple_type"):
        return "must be a list"
    rule: str = found["msg"].removeprefix("Value error, ")
    for subject in ("Input", "String", "List", "Tuple", "Dictionary"):
        rule = rule.replace(f"{subject} should", "must", 1)
    return rule


def _path(found: Any) -> list[str | int]:
    """Where it is in what was sent: pydantic adds steps for unions and functions, which nobody has sent.

    Inside of a field that may hold a secret the path ends where the names are not ours; elsewhere they are shortened.
    """
    here: Any = g.get("document", request.args)
    steps: list[str | int] = []
    for step in found["loc"]:
        if (isinstance(here, Mapping) and step in here) or (isinstance(here, list) and isinstance(step, int)):
            steps.append(step)
            here = here[step]
    if found["type"] == "missing":
        steps.append(found["loc"][-1])
    secret = next((place for place, step in enumerate(steps) if step in SECRETS), len(steps))
    ours = _HEADER_NAME if steps[secret : secret + 1] == ["headers"] else _PART_OF_SECRET
    inside = takewhile(lambda step: ours.fullmatch(str(step)), steps[secret + 1 :])
    return [step if isinstance(step, int) else shown(step)[1:-1] for step in (*steps[: secret + 1], *inside)]


def _name(loc: Sequence[str | int]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc).lstrip(".")
    return text or "the body"


def shown(value: object) -> str:
    """A value of a request as a message may show it: short, escaped, without what may be a secret."""
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(_without_secrets(value) if isinstance(value, str) else value)
    if len(text) > _LONGEST_VALUE + 2:
        return text[:_LONGEST_VALUE] + "..." + ('"' if text.startswith('"') else "")
    return text


def _without_secrets(text: str) -> str:
    """Also for what is no URL: whatever stands before an ``@`` may be a password."""
    match = _SCHEME.match(text)
    scheme = match.group() if match else ""
    rest = text[len(scheme) :]
    if "@" in rest:
        rest = f"{MASK}@{rest.rpartition('@')[2]}"
    told = redact(scheme + rest) if scheme else redact(f"x://{rest}").removeprefix("x://")
    return MASK if looks_secret(told.removeprefix(scheme).removeprefix(f"{MASK}@")) else told
