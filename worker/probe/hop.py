"""One request on its way to the wire: which names have to be looked up first, and what their addresses allow."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from shared.addresses import is_forbidden, parse_address
from worker.probe.failure import Failure, blocked, name_failure, name_timeout, no_address, wrong_family
from worker.probe.proxy import Proxy, allowed
from worker.probe.request import Outgoing
from worker.probe.resolver import Lookup
from worker.probe.way import Way

SHARE_OF_A_NEEDLESS_LOOKUP = 0.25
"""How much of the timeout may pass with a lookup that only serves to judge a name which a proxy will resolve."""


class Rules(Struct, frozen=True):
    """What holds for every hop of a check."""

    block_private: bool
    ip_version: int | None


class _Name(Struct, frozen=True):
    host: str
    is_of_proxy: bool


class Hop:
    """A request, the way it goes, and where to: libcurl never asks a name server itself."""

    def __init__(self, request: Outgoing, way: Way | None, rules: Rules) -> None:
        self.request = request
        self.way = way
        self.pins: list[str] = []
        """Names with their addresses, in the words of CURLOPT_RESOLVE."""
        self.connect_to: str | None = None
        """The address in place of the URL's host, in the words of CURLOPT_CONNECT_TO."""
        self._rules = rules
        self._proxy: Proxy | None = way.proxy if way is not None else None
        self._names: list[_Name] = []
        if self._proxy is not None and not self._proxy.is_literal:
            self._names.append(_Name(self._proxy.host, is_of_proxy=True))
        if not request.is_literal:
            self._names.append(_Name(request.host, is_of_proxy=False))

    @property
    def name(self) -> str | None:
        """The name to look up next; None when all is known."""
        return self._names[0].host if self._names else None

    @property
    def lookup_share(self) -> float:
        """How much of the timeout may pass with that lookup."""
        is_needless = self._proxy is not None and self._proxy.takes_names and not self._names[0].is_of_proxy
        return SHARE_OF_A_NEEDLESS_LOOKUP if is_needless else 1.0

    def obstacle(self) -> Failure | None:
        """Why a literal address must not be gone to. Without a proxy it is judged at the socket, in every notation."""
        request, rules = self.request, self._rules
        if not request.is_literal or (rules.ip_version is None and self._proxy is None):
            return None
        literal = parse_address(request.host)
        if literal is None:
            return None
        if rules.ip_version not in (None, literal.version):
            return wrong_family(request.host, rules.ip_version)
        if self._proxy is not None and is_forbidden(literal, block_private=rules.block_private):
            return blocked(request.host)
        return None

    def looked_up(self, lookup: Lookup) -> Failure | None:
        name = self._names.pop(0)
        if name.is_of_proxy:
            return self._found_proxy(lookup)
        if self._proxy is None:
            return self._found_target(lookup)
        return self._found_behind(self._proxy, lookup)

    def not_looked_up(self, timeout_seconds: float) -> Failure | None:
        """No answer came in the time that :attr:`lookup_share` gives."""
        is_fatal = self.lookup_share == 1.0
        name = self._names.pop(0)
        return name_timeout(name.host, timeout_seconds) if is_fatal else None

    def _found_proxy(self, lookup: Lookup) -> Failure | None:
        if lookup.error is not None:
            return name_failure(f"{lookup.host} of the proxy", lookup.error)
        if self._proxy is not None:
            self._pin(lookup.host, self._proxy.port, lookup.addresses)
        return None

    def _found_target(self, lookup: Lookup) -> Failure | None:
        if lookup.error is not None:
            return name_failure(lookup.host, lookup.error)
        addresses = self._of_version(lookup.addresses)
        if not addresses:
            return no_address(lookup.host, self._rules.ip_version)
        self._pin(lookup.host, self.request.port, addresses)
        return None

    def _found_behind(self, proxy: Proxy, lookup: Lookup) -> Failure | None:
        if lookup.error is not None:
            return None if proxy.takes_names else name_failure(lookup.host, lookup.error)
        good = allowed(lookup.addresses, block_private=self._rules.block_private)
        if proxy.takes_names:  # Nobody knows which of them it will take.
            bad = next((each for each in lookup.addresses if each not in good), None)
            return blocked(bad) if bad else None
        if not good:
            return blocked(lookup.addresses[0])
        good = self._of_version(good)
        if not good:
            return no_address(lookup.host, self._rules.ip_version)
        self.connect_to = f"::{_literal(good[0])}:{self.request.port}"
        return None

    def _of_version(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        version = self._rules.ip_version
        return addresses if version is None else tuple(each for each in addresses if (":" in each) == (version == 6))

    def _pin(self, host: str, port: int, addresses: tuple[str, ...]) -> None:
        self.pins.append(f"{host}:{port}:{','.join(map(_literal, addresses))}")

    def for_a_look(self) -> Hop:
        """The same way once more, to the same addresses, only to see the certificate."""
        again = Hop(replace(self.request, method="GET", body=None), (self.way or Way()).for_a_look(), self._rules)
        again._names.clear()
        again.pins = self.pins
        again.connect_to = self.connect_to
        return again


def _literal(address: str) -> str:
    return f"[{address}]" if ":" in address else address
