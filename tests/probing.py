"""How tests check: one check or many with a real engine, against the servers of :mod:`tests.sites`."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from shared.addresses import parse_address
from shared.check import Check
from shared.monitor import CheckResult, Target
from shared.settings import Settings
from tests.sites import read_request
from worker.probe import Engine

Connection = socket.socket


def settings(**overrides: Any) -> Settings:
    return Settings(_env_file=None, **{"default_backoff_factor": 0.01, **overrides})


def target(endpoint: str, **options: Any) -> Target:
    # All is validated but the endpoint: the probe has to hold what the API refuses, because redirects lead there.
    valid = Check(endpoint="http://placeholder.example/", **options)
    return Target(endpoint, valid.model_copy(update={"endpoint": endpoint}), revision=7, created_at=0)


def finish(probe: Engine, seconds: float = 15) -> list[CheckResult]:
    """Everything in flight, in the order in which it ends."""
    results: list[CheckResult] = []
    deadline = time.monotonic() + seconds
    while probe.in_flight:
        assert time.monotonic() < deadline, f"not finished: {probe.target_ids}"
        results += probe.poll(1)
    return results


def check(
    endpoint: str,
    *,
    with_settings: Settings | None = None,
    ca_file: str | None = None,
    **options: Any,
) -> CheckResult:
    """One check, without retries unless ``options`` say otherwise."""
    with Engine(with_settings or settings(), ca_file=ca_file) as probe:
        probe.add(target(endpoint, **{"retries": 0, "timeout": 5, **options}))
        (result,) = finish(probe)
    return result


def ca_path(authority: trustme.CA, folder: Path) -> str:
    """The authority's certificate as a file, which is what an engine wants."""
    path = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def tls(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def resolve(
    monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]], silent: threading.Event | None = None
) -> list[str]:
    """Replaces the system's resolver: ``names`` have addresses, all others no answer before ``silent`` is set.

    Without ``silent`` the others do not exist. Returns the list of the names that are asked for.
    """
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **named: Any) -> list[Any]:
        if parse_address(host):  # The servers of the test look themselves up.
            return real(host, *rest, **named)
        asked.append(host)
        if host not in names:
            if silent is None:
                raise socket.gaierror(socket.EAI_NONAME, "not known")
            silent.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return [(_family(address), socket.SOCK_STREAM, 6, "", (address, 0)) for address in names[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def answering(answer: bytes) -> Any:
    def handler(connection: Connection) -> None:
        read_request(connection)
        connection.sendall(answer)

    return handler


SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
