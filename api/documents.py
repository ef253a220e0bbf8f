"""What the API says of itself: the app that collects its routes, ``/openapi.json`` and ``/docs``."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import flask_openapi3_swagger  # type: ignore[import-untyped] # no types
from flask import Response, jsonify, render_template, send_from_directory
from flask_openapi3.models.info import Info
from flask_openapi3.models.schema import Schema
from flask_openapi3.openapi import OpenAPI
from flask_openapi3.utils import get_model_schema
from pydantic import BaseModel

from api import answers, narrowing
from api.errors import refuse_invalid
from api.services import services

_EVERY_ROUTE = (401, 403, 500, 503)
_SWAGGER = Path(flask_openapi3_swagger.__file__).parent / "templates" / "swagger"
# Swagger UI sets style attributes from its script and has icons as data URLs; nothing comes from elsewhere.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

ABOUT = """An HTTP endpoint monitor: it checks URLs at their interval, keeps what it saw and mails changes.

Beside these routes: `/events` streams what happens as Server-Sent Events (`?target=`, `Last-Event-ID`), `/livez`,
`/readyz` and `/metrics` are for machines, `/` and `/rq/` for people."""


def make_app() -> OpenAPI:
    """The Flask app, without any route but its static files."""
    return OpenAPI(
        "api",
        info=Info(title="http-monitoring", version="1.0.0", description=ABOUT),
        doc_ui=False,
        validation_error_status=422,
        validation_error_callback=refuse_invalid,
    )


def refusals(*codes: int) -> dict[str | int | HTTPStatus, Any]:
    """The refusals of an original route, for its declaration; those of every route are among them."""
    return _declared(codes, "application/json", "Error")


def problems(*codes: int) -> dict[str | int | HTTPStatus, Any]:
    """The same under ``/api/v1``."""
    return _declared(codes, "application/problem+json", "Problem")


def _declared(codes: tuple[int, ...], mimetype: str, model: str) -> dict[str | int | HTTPStatus, Any]:
    schema = {"$ref": f"#/components/schemas/{model}"}
    return {
        code: {"description": HTTPStatus(code).phrase, "content": {mimetype: {"schema": schema}}}
        for code in sorted({*codes, *_EVERY_ROUTE})
    }


def answer(model: BaseModel, status: int = 200) -> Response:
    """The model as JSON."""
    return Response(model.model_dump_json(), status, mimetype="application/json")


def register(app: OpenAPI) -> None:
    """Call it when all routes are declared."""
    describe = cache(lambda: describe_routes(app))
    app.add_url_rule("/openapi.json", "openapi", lambda: jsonify(describe()))
    app.add_url_rule("/docs", "docs", _show_docs)
    app.add_url_rule(
        "/docs/swagger/<path:filename>", "swagger", lambda filename: send_from_directory(_SWAGGER, filename)
    )


def _show_docs() -> Response:
    return Response(
        render_template("docs.html"), headers={"Content-Security-Policy": _DOCS_POLICY}, mimetype="text/html"
    )


def describe_routes(app: OpenAPI) -> dict[str, Any]:
    """The OpenAPI document: what flask-openapi3 makes of the models, in version 3.0, and what models cannot say.

    It is 3.0 because there ``200.0`` is no integer, as it is none for this API; from 3.1 on it would be one.
    """
    if services().settings.api_token is not None:
        app.security_schemes = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "basic": {"type": "http", "scheme": "basic", "description": "Any name, and the token as password."},
        }
        app.openapi_extensions = {"security": [{"bearer": []}, {"basic": []}]}
    app.openapi_version = "3.0.3"
    for model in (answers.Error, answers.ErrorData, answers.ErrorItem, answers.Problem):
        app.components_schemas[model.__name__] = Schema(**get_model_schema(model, mode="serialization"))
    document = app.api_doc
    _downgrade_all(document)
    if not document["components"]["securitySchemes"]:
        del document["components"]["securitySchemes"]
    components = document["components"]["schemas"]
    components.pop("ValidationErrorModel", None)
    narrowing.narrow(components)
    # Whoever draws requests from this document would draw waits of half a minute; the route's text tells of it.
    del document["paths"]["/status"]["post"]["parameters"]
    return document


def _downgrade_all(document: dict[str, Any]) -> None:
    components = document["components"]["schemas"]
    for name, schema in components.items():
        components[name] = downgrade(schema)
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                parameter["schema"] = downgrade(parameter["schema"])


def downgrade(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of OpenAPI 3.1 in the words of 3.0, without the titles that pydantic derives from names."""
    schema = {name: value for name, value in schema.items() if name != "title"}
    if schema.get("default", 0) is None:
        del schema["default"]
    if schema == {"type": "null"}:
        return {"type": "object", "nullable": True, "enum": [None]}
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    for bound, excluding in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if excluding in schema:
            schema |= {bound: schema[excluding], excluding: True}
        if isinstance(schema.get(bound), float) and schema[bound].is_integer():
            schema[bound] = int(schema[bound])
    if "properties" in schema:
        schema["properties"] = {name: downgrade(each) for name, each in schema["properties"].items()}
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            schema[name] = downgrade(schema[name])
    if "oneOf" in schema:
        schema["oneOf"] = [downgrade(branch) for branch in schema["oneOf"]]
    if "anyOf" in schema:
        return _downgrade_union(schema)
    return schema


def _downgrade_union(schema: dict[str, Any]) -> dict[str, Any]:
    branches = [branch for branch in schema["anyOf"] if branch != {"type": "null"}]
    nullable = {"nullable": True} if len(branches) < len(schema["anyOf"]) else {}
    branches = [downgrade(branch) for branch in branches]
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    if nullable and "enum" in branches[0]:
        branches[0] |= {"enum": [*branches[0]["enum"], None]}
    if len(branches) > 1:
        return rest | {"anyOf": branches} | nullable
    # Whatever stands beside a $ref is ignored in 3.0.
    return rest | ({"allOf": branches} if "$ref" in branches[0] else branches[0]) | nullable
