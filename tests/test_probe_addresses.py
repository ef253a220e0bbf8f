"""No check connects to an address that is forbidden, whatever name, notation, redirect, answer or proxy leads there."""

import threading
from collections.abc import Iterator

import pytest

from shared.monitor import Reason, Target, Verdict
from tests.probing import check, finish, resolve, settings, target
from tests.sites import Answer, HttpProxy, Site, SocksProxy, redirect
from worker.probe import Engine, transfer


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        yield server


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "192.0.0.192",
        "100.100.100.200",
        "[::]",
        "[fe80::1]",
        "[ff02::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "0xa9fea9fe",
        "2852039166",
        "169.254.43518",
    ],
)
def test_forbidden_addresses_are_blocked_in_every_notation(host: str) -> None:
    result = check(f"http://{host}/", retries=3)
    assert (result.verdict, result.reason, len(result.attempts)) == (Verdict.DOWN, Reason.BLOCKED, 1)


def test_a_redirect_to_a_forbidden_address_is_blocked(site: Site) -> None:
    site.routes["/"] = redirect("http://169.254.169.254/latest/meta-data/")
    result = check(site.url())
    assert result.reason is Reason.BLOCKED
    assert result.sentence == "the address 169.254.169.254 is one that no check may connect to"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"])
def test_private_addresses_are_blocked_when_the_settings_say_so(site: Site, host: str) -> None:
    result = check(site.url(host=host), with_settings=settings(block_private_networks=True))
    assert result.reason is Reason.BLOCKED
    assert site.connections == 0


def test_of_several_addresses_only_the_forbidden_ones_are_skipped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"mixed.example": ["169.254.169.254", "127.0.0.1"], "bad.example": ["169.254.169.254", "0.0.0.0"]}
    resolve(monkeypatch, names, threading.Event())
    assert check(site.url(host="mixed.example")).verdict is Verdict.UP
    assert check(site.url(host="bad.example")).reason is Reason.BLOCKED


@pytest.mark.parametrize(
    "host", ["UPPER.example", "dot.example.", "under_score.example", "b\u00fccher.example", "9.a1"]
)
def test_libcurl_takes_the_addresses_that_our_resolver_found(
    site: Site, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    asked = host.lower().replace("b\u00fccher", "xn--bcher-kva")
    resolve(monkeypatch, {asked: ["127.0.0.1"]}, threading.Event())
    result = check(site.url(host=host))
    assert result.verdict is Verdict.UP, result.sentence
    assert "dns" in result.phases


def test_a_name_is_resolved_anew_for_every_check(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"moving.example": ["127.0.0.1"]}
    resolve(monkeypatch, names, threading.Event())
    with Engine(settings()) as probe:
        probe.add(target(site.url(host="moving.example")))
        assert finish(probe)[0].verdict is Verdict.UP
        names["moving.example"] = ["169.254.169.254"]
        probe.add(target(site.url(host="moving.example")))
        assert finish(probe)[0].reason is Reason.BLOCKED


PRIVATE = [
    "127.0.0.1",
    "0x7f.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "127.1",
    "127.0.1",
    "localhost",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[::ffff:0:127.0.0.1]",
    "[fd00::1]",
    "[fec0::1]",
    "[fe80::1%25lo]",
    "[::1%25lo]",
    "[fe80::1%lo]",
    "\uff11\uff12\uff17.0.0.1",
    "\u2460\u2461\u2466.0.0.1",
    "127\u30020\u30020\u30021",
    "10.0.0.1",
    "192.168.0.1",
    "172.16.0.1",
    "100.64.0.1",
    "198.18.0.1",
    "169.254.169.254",
]

NEVER_REACHED = (Reason.BLOCKED, Reason.PROTOCOL, Reason.DNS)


@pytest.mark.parametrize("host", PRIVATE)
def test_no_notation_leads_to_a_private_address(site: Site, host: str) -> None:
    blocking = settings(block_private_networks=True)
    direct = check(site.url(host=host), with_settings=blocking, timeout=3)
    assert direct.verdict is not Verdict.UP
    assert direct.reason in (*NEVER_REACHED, Reason.INTERNAL), direct.sentence
    assert direct.reason is not Reason.INTERNAL or direct.status_code is None
    assert site.connections == 0


@pytest.mark.parametrize("host", PRIVATE)
def test_no_redirect_leads_to_a_private_address(site: Site, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = transfer._is_refused
    judged: list[str] = []

    def once(address: str, block_private: bool) -> bool:
        """As if the first address were a public one."""
        judged.append(address)
        return len(judged) > 1 and real(address, block_private)

    monkeypatch.setattr(transfer, "_is_refused", once)
    with Site() as inner:
        site.routes["/"] = redirect(f"http://{host}:{inner.port}/")
        result = check(site.url(), with_settings=settings(block_private_networks=True), timeout=3)
    assert site.count("/") == 1
    assert result.verdict is Verdict.DOWN
    assert result.reason in NEVER_REACHED, result.sentence
    assert inner.connections <= 1  # The one with which the test closes it.
    assert inner.requests == []


def test_a_number_with_a_dot_is_an_address_and_asked_of_no_name_server(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolve(monkeypatch, {})
    assert check(site.url(host="127.0.0.1.")).verdict is Verdict.UP
    result = check(site.url(host="127.0.0.1."), with_settings=settings(block_private_networks=True))
    assert (result.reason, asked) == (Reason.BLOCKED, [])


@pytest.mark.parametrize("host", ["1.2.3.4.5", "999999999999", "256.1.1.1", "0x100000000.", "1.2.3.", "%00", "a%2Fb"])
def test_a_redirect_to_what_is_neither_name_nor_address_is_no_redirect(site: Site, host: str) -> None:
    site.routes["/"] = redirect(f"http://{host}:{site.port}/there")
    result = check(site.url())
    if host == "1.2.3.":  # Fewer parts than four are an address still.
        assert result.reason is not Reason.INTERNAL
    else:
        assert result.reason is Reason.PROTOCOL
        assert result.sentence == "redirected to something that is not an http or https URL"


@pytest.mark.parametrize("host", ["b\u00fccher.example", "B%C3%9CCHER.example"])
def test_a_redirect_to_an_internationalized_name_is_encoded_as_an_endpoint_is(
    site: Site, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    asked = resolve(monkeypatch, {"xn--bcher-kva.example": ["127.0.0.1"]})
    site.routes["/"] = redirect(f"http://{host}:{site.port}/there")
    site.routes["/there"] = Answer(200)
    result = check(site.url())
    assert (result.verdict, asked) == (Verdict.UP, ["xn--bcher-kva.example"]), result.sentence


def test_the_address_that_is_judged_is_the_one_that_is_connected_to(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"rebinding.example": ["127.0.0.1"]}
    asked = resolve(monkeypatch, names)
    result = check(site.url(host="rebinding.example"))
    assert (result.verdict, asked) == (Verdict.UP, ["rebinding.example"])
    names["rebinding.example"] = ["169.254.169.254"]
    assert check(site.url(host="rebinding.example")).reason is Reason.BLOCKED


def test_a_name_that_changes_between_two_hops_is_judged_at_each(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"rebinding.example": ["127.0.0.1"]}
    resolve(monkeypatch, names)

    def rebind(_: object) -> object:
        names["rebinding.example"] = ["169.254.169.254"]
        return redirect("/again")

    site.routes["/"] = rebind  # type: ignore[assignment]
    result = check(site.url(host="rebinding.example"), retries=3)
    assert (result.reason, site.count("/"), site.count("/again")) == (Reason.BLOCKED, 1, 0)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "fe80::1%lo",
        "fd00:ec2::254",
    ],
)
def test_a_name_that_leads_to_a_forbidden_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"bad.example": [address]})
    assert check("http://bad.example/").reason is Reason.BLOCKED


def test_a_name_with_an_address_of_each_kind_leads_to_the_good_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = ["::ffff:169.254.169.254", "169.254.169.254", "2002:a9fe:a9fe::"]
    resolve(monkeypatch, {"both.example": [*bad, "127.0.0.1"], "late.example": ["127.0.0.1", *bad]})
    for name in ("both.example", "late.example"):
        result = check(site.url(host=name))
        assert result.verdict is Verdict.UP
        assert result.last is not None
        assert result.last.address == f"127.0.0.1:{site.port}"


# --- proxies -------------------------------------------------------------------------------------------------------

PROXIES = ["http", "socks5", "socks5h"]


@pytest.mark.parametrize("scheme", [*PROXIES, "https"])
@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1]", "0.0.0.0"])
def test_a_proxy_is_judged_as_any_other_address(site: Site, scheme: str, host: str) -> None:
    options = target(site.url(), retries=0).check.model_copy(update={"proxy": f"{scheme}://{host}:3128"})
    with Engine(settings()) as probe:
        probe.add(Target("t", options, 1, 0))
        (result,) = finish(probe)
    assert (result.verdict, result.reason) == (Verdict.DOWN, Reason.BLOCKED)


def test_a_private_proxy_is_blocked_when_the_settings_say_so() -> None:
    with HttpProxy() as proxy:
        blocking = settings(block_private_networks=True)
        result = check("http://192.0.2.1/", proxy=f"http://127.0.0.1:{proxy.port}", with_settings=blocking)
        assert result.reason is Reason.BLOCKED
        assert proxy.connections == 0


@pytest.mark.parametrize("scheme", PROXIES)
@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[::ffff:a9fe:a9fe]", "bad.example", "0xa9fea9fe", "2852039166", "[64:ff9b::a9fe:a9fe]"]
)
def test_nothing_forbidden_is_asked_of_a_proxy(scheme: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"bad.example": ["169.254.169.254", "fe80::1"], **NUMBERS})
    with SocksProxy() as socks, HttpProxy() as http:
        port = http.port if scheme == "http" else socks.port
        result = check(f"http://{host}/", proxy=f"{scheme}://127.0.0.1:{port}")
        assert result.reason is Reason.BLOCKED, result.sentence
        assert (socks.connections, http.connections) == (0, 0)


NUMBERS = {"0xa9fea9fe": ["169.254.169.254"], "2852039166": ["169.254.169.254"]}  # As getaddrinfo has it.


@pytest.mark.parametrize("scheme", PROXIES)
@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "169.254.169.254.",
        "0xA9FEA9FE.",
        "2852039166.",
        "0251.0376.0251.0376.",
        "\uff11\uff16\uff19.254.169.254",
        "169\u3002254\u3002169\u3002254",
        "%31%36%39.254.169.254",
    ],
)
def test_a_redirect_behind_a_proxy_is_judged_too(site: Site, scheme: str, host: str) -> None:
    site.routes["/"] = redirect(f"http://{host}/latest")
    with SocksProxy() as socks, HttpProxy() as http:
        port = http.port if scheme == "http" else socks.port
        result = check(site.url(), proxy=f"{scheme}://127.0.0.1:{port}")
        assert result.reason is (Reason.BLOCKED if host.isascii() else Reason.PROTOCOL)
        assert socks.connections + http.connections == 1


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_a_proxy_is_given_no_name_that_has_one_forbidden_address(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, {"half.example": ["192.0.2.1", "169.254.169.254"]})
    with SocksProxy() as socks, HttpProxy() as http:
        port = http.port if scheme == "http" else socks.port
        result = check("http://half.example/", proxy=f"{scheme}://127.0.0.1:{port}")
        assert result.reason is Reason.BLOCKED
        assert socks.connections + http.connections == 0


def test_a_lookup_that_only_serves_to_judge_is_not_waited_for_long(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = threading.Event()
    resolve(monkeypatch, {}, silent)
    with HttpProxy() as proxy:
        result = check(site.url(host="inside.example"), proxy=f"http://127.0.0.1:{proxy.port}", timeout=1)
    silent.set()
    assert result.verdict is Verdict.UP, result.sentence
    assert result.phases["dns"] == pytest.approx(250, abs=100)
