"""What is sent for an ordinary URL, which most are, is what requests would have prepared."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.probe import request
from worker.probe.request import Outgoing

PIECES = st.sampled_from(
    ["a", "b-1", "www", "example", "com", "10", "127", "0", "0x7f", "255", "256", "xn--bcher-kva", "A", "_x", "%41"]
)
HOSTS = st.lists(PIECES, min_size=1, max_size=5).map(".".join) | st.sampled_from(["127.0.0.1", "1.1", "[::1]", "a..b"])
PORTS = st.sampled_from(["", ":80", ":443", ":8080", ":65535", ":65536", ":0", ":080", ":"])
PATHS = st.lists(st.sampled_from([*"ab./?=&%;,+~!$'()*:@-_#\"<>\\^`{|} é", "%2e", "..", "//"]), max_size=12).map(
    "".join
)


def prepared(url: str) -> Outgoing | str:
    try:
        return Outgoing.to(url)
    except ValueError as error:
        return type(error).__name__


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(["http", "https", "HTTP", "ftp"]), HOSTS, PORTS, PATHS)
def test_a_url_that_is_not_prepared_would_not_have_changed(scheme: str, host: str, port: str, rest: str) -> None:
    url = f"{scheme}://{host}{port}" + (f"/{rest}" if rest else "")
    quick = prepared(url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request, "_AS_IT_IS", re.compile("(?!)"))
        assert quick == prepared(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://www.shop-1.example/health",
        "http://127.0.0.1:65535/a/b.html?x=1&y=a/b",
        "https://xn--bcher-kva.example:8443/a;b=c/@me/(1)",
    ],
)
def test_most_urls_are_not_prepared(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.probe.request.PreparedRequest", pytest.fail)
    assert Outgoing.to(url).url.startswith(url)
