"""The web process: it speaks HTTP and decides nothing.

==============================  =========================================================================
status                          the original contract
targets, checks, incidents,     the REST API under ``/api/v1``
maintenance
events                          what happens, as it happens
machines                        for orchestrators and for Prometheus
pages                           for people; dashboard is rq's
documents                       what the API says of itself
access                          who may call what
schemas, narrowing,             what comes in
strict_json
answers, incident_answers,      what goes out
seen, paging, errors
services, waiting               what a request works with, and how it waits for a check
server                          the configuration of gunicorn
==============================  =========================================================================

``create_app`` puts the rooms together. Importing this package connects to nothing and reads no environment.
"""

from __future__ import annotations

from flask import Flask
from redis import Redis

from api import (
    access,
    checks,
    dashboard,
    documents,
    errors,
    events,
    incidents,
    machines,
    maintenance,
    pages,
    status,
    targets,
)
from api.services import Services, attach, connect
from shared.settings import Settings, read_settings


def create_app(settings: Settings | None = None, redis: Redis | None = None) -> Flask:
    """The WSGI application; without arguments it reads the settings of this process. Raises SettingsError.

    ``redis`` is for whoever has a client already; it must answer in bytes.
    """
    settings = settings or read_settings()
    app = documents.make_app()
    attach(app, Services.of(settings, redis or connect(settings.redis)))
    app.json.sort_keys = False  # type: ignore[attr-defined] # the provider is the default one
    errors.register(app)
    access.register(app)
    app.register_api(status.blueprint)
    app.register_api(targets.blueprint)
    app.register_api(checks.blueprint)
    app.register_api(incidents.blueprint)
    app.register_api(maintenance.blueprint)
    documents.register(app)
    events.register(app)
    machines.register(app)
    pages.register(app)
    dashboard.register(app)
    return app
