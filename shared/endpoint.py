"""What an endpoint and its title may be, and how an endpoint is shown without its secrets. Pure.

The rule for URLs is that every parser reads the same host: RFC 3986, the browsers' URL standard, Python's urlsplit,
urllib3 and libcurl differ over backslashes, short and octal addresses, foreign digits and empty ports, so whatever
they differ over is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote, unquote_plus, urlsplit

import idna
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from shared.addresses import is_forbidden, parse_address

_REFUSED_CHARACTERS = re.compile(r"[\s\x00-\x20\x7f\\<>\"`\u0080-\u00a0]")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_LOOKS_NUMERIC = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)
_SECRET_NAME = re.compile(r"token|key|secret|pass|pwd|auth|sig|cred|session|jwt|^(?:code|otp|pin|sid)$", re.IGNORECASE)
_LONG_RANDOM = re.compile(r"(?<![\w-])(?=[A-Za-z_-]*[0-9])(?=[0-9_-]*[A-Za-z])[A-Za-z0-9_-]{24,}", re.ASCII)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_READ_ALIKE = re.compile(r"https?://[a-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9/_.-]*)?(\?[A-Za-z0-9=&_.-]*)?")
"""URLs in which there is nothing that two parsers could read differently: most of them, and asking both takes time."""
_USERINFO = re.compile(r"//[^/]*@")
_BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
MASK = "***"


def is_plain_text(text: str) -> bool:
    """Whether ``text`` has no control, separator, surrogate or bidirectional formatting character.

    Such characters forge mail headers (Flask-Mail turns \\x0b, \\x0c and \\x1c to \\x1e into a line end), terminal
    output and the direction of what people read.
    """
    if text.isascii():
        return not _CONTROLS.search(text)
    for character in text:
        category = unicodedata.category(character)
        if category in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(character) in _BIDI:
            return False
        if character in "\u200e\u200f\u061c":
            return False
    return True


def check_title(title: str) -> str:
    """The title itself; raises ValueError when it holds a character that :func:`is_plain_text` refuses."""
    if not is_plain_text(title):
        raise ValueError("must not hold control, separator or bidirectional characters")
    return title


def check_endpoint(endpoint: str) -> str:
    """The URL itself, unchanged; raises ValueError with the rule that it breaks.

    Literal addresses that no check may ever connect to are refused here already, so that the mistake is told at once;
    the probe judges again at the socket, where names and redirects are resolved.
    """
    if MASK in endpoint:
        # Somebody sends back what an answer showed; it would take the place of the secret.
        raise ValueError(f"must not hold {MASK}, which stands for a secret that is not shown")
    if _REFUSED_CHARACTERS.search(endpoint) or not is_plain_text(endpoint):
        raise ValueError("must not hold spaces, control characters, backslashes, quotes or angle brackets")
    scheme, separator, rest = endpoint.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    userinfo, _, hostport = authority.rpartition("@")
    if "@" in userinfo:
        raise ValueError("must not hold more than one '@' before the path")
    if not userinfo.isascii() or "[" in userinfo or "]" in userinfo:
        raise ValueError("must percent-encode the user name and password")
    host, port = _split_port(hostport)
    _check_port(port)
    _check_host(host)
    if not _READ_ALIKE.fullmatch(endpoint):
        _check_parsers_agree(endpoint, host)
    return endpoint


def _split_port(hostport: str) -> tuple[str, str | None]:
    if hostport.startswith("["):
        host, closed, after = hostport.partition("]")
        if not closed or (after and not after.startswith(":")):
            raise ValueError("must close the bracket of an IPv6 address")
        return host + closed, after[1:] if after else None
    if hostport.count(":") > 1:
        raise ValueError("must put an IPv6 address in brackets, and name one port at most")
    host, colon, port = hostport.partition(":")
    return host, port if colon else None


def _check_port(port: str | None) -> None:
    if port is None:
        return
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError("must have a port between 1 and 65535, or none")


def _check_host(host: str) -> None:
    if not host:
        raise ValueError("must name a host")
    if host.startswith("["):
        literal = parse_address(host[1:-1])
        if literal is None or literal.version != 6 or "%" in host:
            raise ValueError("must hold a valid IPv6 address between the brackets")
    elif _LOOKS_NUMERIC.fullmatch(host.rstrip(".").rpartition(".")[2]):
        literal = parse_address(host)
        if literal is None:
            raise ValueError("must write an IPv4 address as four decimal numbers")
    else:
        literal = None
        _check_name(host)
    if literal is not None and is_forbidden(literal, block_private=False):
        raise ValueError("must not be a link-local, metadata, multicast, broadcast or unspecified address")


def _check_name(host: str) -> None:
    if not host.isascii():
        if re.search("[\u3002\uff0e\uff61]", host):
            raise ValueError("must separate the labels of its host with plain full stops")
        try:
            host = idna.encode(host).decode("ascii")
        except idna.IDNAError:
            raise ValueError("must have a valid internationalized host name (IDNA 2008)") from None
    name = host.removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError("must have a valid host name")
    for label in name.split("."):
        if label.lower().startswith("xn--"):
            try:
                idna.ulabel(label)
            except idna.IDNAError:
                raise ValueError("must have a valid punycode label after 'xn--'") from None


def _check_parsers_agree(endpoint: str, host: str) -> None:
    try:
        standard = urlsplit(endpoint).hostname or ""
        other = (parse_url(endpoint).host or "").strip("[]")
    except (ValueError, LocationParseError):
        raise ValueError("must be a URL that can be parsed") from None
    wanted = host.strip("[]").lower()
    if standard.lower() != wanted:
        raise ValueError("must have a host that every parser reads alike")
    ascii_host = wanted if wanted.isascii() else idna.encode(wanted).decode("ascii")
    if other.lower() not in (wanted, ascii_host) and parse_address(other) != parse_address(wanted):
        raise ValueError("must have a host that every parser reads alike")


def redact(endpoint: str) -> str:
    """The URL as it may be shown: no user name or password, no value that a name or a look tells to be a secret.

    Query parameters named like a credential (token, key, secret, pass, auth, sig, ...) lose their value, and so does
    whatever holds a run of 24 and more letters and digits mixed, or a URL with a user name of its own. The rest stays
    as it is.
    """
    scheme, _, rest = endpoint.partition("://")
    match = re.match(r"[^/?#]*", rest)
    authority = match.group() if match else ""
    after = rest[len(authority) :]
    _userinfo, at, hostport = authority.rpartition("@")
    after, hash_sign, fragment = after.partition("#")
    path, question, query = after.partition("?")
    shown = f"{scheme}://{MASK + '@' if at else ''}{hostport}"
    shown += "/".join(_redact_segment(segment) for segment in path.split("/"))
    if question:
        shown += "?" + re.sub("[^&;]+", lambda parameter: _redact_parameter(parameter.group()), query)
    if hash_sign:
        shown += f"#{MASK}" if fragment else "#"
    return shown


def _redact_segment(segment: str) -> str:
    """A segment of the path, and its parameters behind semicolons, RFC 3986 3.3."""
    first, *parameters = segment.split(";")
    if looks_secret(first):
        return MASK
    return ";".join([first, *map(_redact_parameter, parameters)])


def _redact_parameter(parameter: str) -> str:
    name, _, value = parameter.partition("=")
    if looks_secret(name):
        return MASK
    if value and (names_secret(unquote_plus(name)) or looks_secret(value)):
        return f"{name}={MASK}"
    return parameter


def userinfo_of(url: str) -> str:
    """The user name and password of a URL as they stand there; empty where there are none. Raises nothing."""
    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    return authority.rpartition("@")[0]


def secret_parts(endpoint: str) -> Iterator[str]:
    """What :func:`redact` masks of a URL that is sent, each as it stands there and decoded. Raises nothing."""
    userinfo = userinfo_of(endpoint)
    sent = endpoint.partition("://")[2].partition("#")[0]
    path, _, query = sent[len(userinfo) :].partition("?")
    segments = [segment.split(";") for segment in path.split("/")[1:]]
    found = userinfo.split(":", 1) + [segment[0] for segment in segments if looks_secret(segment[0])]
    for parameter in [each for segment in segments for each in segment[1:]] + re.split("[&;]", query):
        name, _, value = parameter.partition("=")
        if looks_secret(name):
            found += [name, value]
        elif names_secret(unquote_plus(name)) or looks_secret(value):
            found.append(value)
    for each in filter(None, found):
        yield from {each, unquote(each), unquote_plus(each)}


def names_secret(name: str) -> bool:
    """Whether something of this name is likely to be a credential."""
    return bool(_SECRET_NAME.search(name))


def looks_secret(text: str) -> bool:
    """Whether a text holds a long random word, or a URL with a user name."""
    plain = unquote_plus(text)
    return bool(_LONG_RANDOM.search(plain) or _USERINFO.search(plain))


def is_secret_header(name: str) -> bool:
    """Whether a header of this name holds a credential or a cookie."""
    return "cookie" in name.lower() or names_secret(name.lower())


def is_credential(value: str) -> bool:
    """Whether a header's value is one of RFC 7617 or 6750, whatever the header's name."""
    return value.lower().startswith(("basic ", "bearer "))


def redact_header(name: str, value: str) -> str:
    """A header's value as it may be shown: credentials and cookies are masked, by the name or the look."""
    if is_secret_header(name) or looks_secret(value) or is_credential(value):
        return MASK
    return redact(value) if value.startswith(("http://", "https://")) else value
