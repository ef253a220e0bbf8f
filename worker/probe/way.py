"""How a check connects where it does not do so in the ordinary way: TLS, versions, proxy, as options of libcurl."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Self

import pycurl

from shared.check import Check
from worker.probe.proxy import Proxy

_HTTP_VERSIONS = {
    "1.0": pycurl.CURL_HTTP_VERSION_1_0,
    "1.1": pycurl.CURL_HTTP_VERSION_1_1,
    "2": pycurl.CURL_HTTP_VERSION_2TLS,
}
_NAMES = {
    pycurl.CURL_HTTP_VERSION_1_0: "1.0",
    pycurl.CURL_HTTP_VERSION_1_1: "1.1",
    pycurl.CURL_HTTP_VERSION_2_0: "2",
}

_SPECIAL = attrgetter("verify_tls", "ca_certificate", "client_certificate", "http_version", "proxy")
_ALL_NONE = (None,) * 5


@dataclass(frozen=True, slots=True)
class Way:
    """What differs from the ordinary. Certificates and keys stay in memory: no file is written."""

    verifies: bool = True
    ca_certificate: bytes | None = None
    client_certificate: bytes | None = field(default=None, repr=False)
    http_version: str | None = None
    proxy: Proxy | None = None
    reads_certificate: bool = False
    """Whether libcurl is to list the server's certificates."""
    only_looks: bool = False
    """Whether the connection ends with the TLS handshake, and nothing is asked."""

    @classmethod
    def of(cls, check: Check) -> Self | None:
        """None for a check that connects in the ordinary way, as most do."""
        if _SPECIAL(check) == _ALL_NONE:
            return None
        return cls(
            verifies=check.verify_tls is not False,
            ca_certificate=check.ca_certificate.encode() if check.ca_certificate else None,
            client_certificate=check.client_certificate.encode() if check.client_certificate else None,
            http_version=check.http_version,
            proxy=Proxy.parse(check.proxy) if check.proxy else None,
        )

    def to_another_origin(self) -> Way:
        """The same without what proves who we are."""
        return replace(self, client_certificate=None)

    def for_a_look(self) -> Way:
        """The same, only to see the server's certificates; refused where they were refused before."""
        return replace(self, reads_certificate=True, only_looks=True)

    def apply(self, handle: Any, ca_file: str, *, is_https: bool) -> None:
        """Sets the options on a handle that has all of its ordinary ones."""
        option = handle.setopt
        if not self.verifies:
            option(pycurl.SSL_VERIFYPEER, 0)
            option(pycurl.SSL_VERIFYHOST, 0)
        if self.ca_certificate is not None:
            # In place of the file, not beside it.
            handle.unsetopt(pycurl.CAINFO)
            handle.unsetopt(pycurl.CAPATH)
            option(pycurl.CAINFO_BLOB, self.ca_certificate)
        if self.client_certificate is not None:
            option(pycurl.SSLCERT_BLOB, self.client_certificate)
            option(pycurl.SSLKEY_BLOB, self.client_certificate)
        if self.http_version is not None:
            version = _HTTP_VERSIONS[self.http_version]
            if self.http_version == "2" and not is_https:
                version = pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE
            option(pycurl.HTTP_VERSION, version)
        if self.proxy is not None:
            self.proxy.apply(handle, ca_file, self.ca_certificate)
        if self.reads_certificate:
            option(pycurl.OPT_CERTINFO, 1)
        if self.only_looks:
            option(pycurl.CONNECT_ONLY, 1)


def name_of_version(number: int) -> str:
    """``1.1`` for libcurl's number of the version that was spoken."""
    return _NAMES.get(number, "another version")
