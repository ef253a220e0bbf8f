"""What a check sends and nobody is to see, and how it is found in what a server sends back, however it is spelled.

What counts as a secret, so that evidence stays readable:

- all of the credentials (also as Basic spells them), and the values of headers and of parameters of the URL whose name
  or look tells a secret (:mod:`shared.endpoint`); of a header also its parts: what stands behind the scheme, and the
  values in cookies and parameters that would be masked in a body;
- of a body each leaf, also where a text is JSON or a form: any text whose name tells a secret, any other text of 8 and
  more characters, a shorter one (4 and more) unless it is a plain word such as ``active``, and numbers of 4 and more
  digits. Of a text that is neither, the words that mix letters with digits.

What is shorter than 3 characters is not masked: it is part of everything, and nothing could be read any more. For the
same reason 3 characters are masked only as a word of their own, and a short number only as a number of its own.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import unescape
from urllib.parse import parse_qsl, unquote_to_bytes

import orjson
from pydantic import JsonValue

from shared.check import BasicAuth, BearerAuth, Check, FormBody, JsonBody, TextBody
from shared.endpoint import MASK, looks_secret, names_secret, redact_header, secret_parts, userinfo_of

_SHORTEST = 3
_LONG = 8
_FEW = 16
"""So many are all looked for; of more, those whose first characters are there."""
_SHORTEST_END = 4
"""Where a text was cut, is not known, and its end is the beginning of a secret: so much of it is no chance."""

_TELLING_URL = re.compile(r"[@?;%]|[A-Za-z0-9_-]{24}", re.ASCII)
_PLAIN_WORD = re.compile(r"[^\W\d_]?(?:[^\W\d_A-Z]+|[A-Z]+)")
_WORD = re.compile(r"[^\s<>\"'=&;,:{}()\[\]]{4,}")
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}

_PARTS = "\ufffd" + "".join(map(chr, range(0xDC80, 0xDD00)))
"""What stands for a part of a character, where a text was cut in the middle of one."""

# Each also as it is where a text was cut in the middle of it.
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2})+|\+|%[0-9A-Fa-f]?\Z")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});|&#?\w{0,8}\Z")
_BACKSLASH = re.compile(
    r"\\u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\[^u\s]|\\(?:u[0-9A-Fa-f]{0,3})?\Z"
)


class Secrets:
    """The secrets of one check; false when it has none."""

    __slots__ = ("_by_head",)

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._by_head: dict[str, set[str]] = {}
        for word in words:
            if len(word) >= _SHORTEST:
                word = word.translate(_LOWER)
                self._by_head.setdefault(word[:_SHORTEST], set()).add(word)

    @classmethod
    def of(cls, check: Check) -> Secrets:
        return cls(_secrets(check)) if may_have(check) else NO_SECRETS

    def __bool__(self) -> bool:
        return bool(self._by_head)

    def hidden(self, text: str, *, is_cut: bool = False) -> str:
        """The text with every secret masked, in any case and escaped or not, and the beginning of one at its end.

        ``is_cut`` says that more was to follow: then one character of a beginning is enough.
        """
        if not self._by_head or not text:
            return text
        shortest_end = 1 if is_cut else _SHORTEST_END
        spans = sorted(span for view in _views(text) for span in self._found(view, len(text), shortest_end))
        shown, position = [], 0
        for start, end in spans:
            if start >= position:
                shown += [text[position:start], MASK]
            position = max(position, end)
        return "".join((*shown, text[position:]))

    def _found(self, view: _View, whole: int, shortest_end: int) -> Iterator[tuple[int, int]]:
        """Where secrets stand in the original, in no order."""
        text, at = view.text.translate(_LOWER), view.at
        for word in self._candidates(text):
            start = text.find(word)
            while start >= 0:
                end = start + len(word)
                if _stands_alone(word, text, start, end):
                    yield at[start], at[end]
                start = text.find(word, start + 1)
        told = text.rstrip(_PARTS)
        for word in self._candidates(told, shortest_end):
            start = told.find(word[0], max(0, len(told) - len(word) + 1))
            while 0 <= start <= len(told) - shortest_end:
                if word.startswith(told[start:]):
                    yield at[start], whole
                    break
                start = told.find(word[0], start + 1)

    def _candidates(self, text: str, shortest_end: int = _SHORTEST) -> Iterator[str]:
        """The secrets whose first characters are in the text, or at its end, if that is to do."""
        heads = set(self._by_head) if len(self._by_head) <= _FEW else self._heads_in(text, shortest_end)
        for head in heads:
            yield from self._by_head[head]

    def _heads_in(self, text: str, shortest_end: int) -> set[str]:
        heads = {text[start : start + _SHORTEST] for start in range(len(text) - _SHORTEST + 1)} & self._by_head.keys()
        for length in range(shortest_end, _SHORTEST):
            end = text[-length:]
            heads |= {head for head in self._by_head if end and head.startswith(end)}
        return heads


NO_SECRETS = Secrets()


def may_have(check: Check) -> bool:
    """Whether it is worth looking for secrets; asked for every good answer, so it is quick."""
    return (
        check.headers is not None
        or check.auth is not None
        or check.body is not None
        or check.proxy is not None
        or check.user_agent is not None
        or _TELLING_URL.search(check.endpoint) is not None
    )


# --- spellings -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _View:
    """A text as one kind of escapes is read; the character ``n`` stands in the original from ``at[n]``."""

    text: str
    at: Sequence[int]


def _views(text: str) -> Iterator[_View]:
    yield _View(text, range(len(text) + 1))
    if "%" in text or "+" in text:
        yield _view(text, _PERCENT, _unquoted)
    if "&" in text:
        yield _view(text, _ENTITY, _unescaped_html)
    if "\\" in text:
        yield _view(text, _BACKSLASH, _unescaped_json)


Decoded = Callable[[str], Iterable[tuple[str, int]]]
"""From a run of escapes to what they stand for, each with the length of its escape; "" for a part of one."""


def _view(text: str, escapes: re.Pattern[str], decoded: Decoded) -> _View:
    said: list[str] = []
    at: list[int] = []
    position = 0
    for match in escapes.finditer(text):
        said.append(text[position : match.start()])
        at.extend(range(position, match.start()))
        position = match.start()
        for characters, width in decoded(match[0]):
            said.append(characters)
            at.extend([position, *[position + width] * (len(characters) - 1)][: len(characters)])
            position += width
    said.append(text[position:])
    at.extend(range(position, len(text) + 1))
    return _View("".join(said), at)


def _unquoted(run: str) -> Iterator[tuple[str, int]]:
    if run == "+":
        yield " ", 1
    elif len(run) < len("%00"):
        yield "", len(run)
    else:
        for character in unquote_to_bytes(run).decode("utf-8", "surrogateescape"):
            yield character, len("%00") * len(character.encode("utf-8", "surrogateescape"))


def _unescaped_html(escape: str) -> Iterator[tuple[str, int]]:
    yield unescape(escape) if escape.endswith(";") else "", len(escape)


def _unescaped_json(escape: str) -> Iterator[tuple[str, int]]:
    try:
        yield json.loads(f'"{escape}"'), len(escape)
    except ValueError:
        yield "" if escape[1:2] in ("", "u") else escape[1:], len(escape)


def _stands_alone(word: str, text: str, start: int, end: int) -> bool:
    """Whether a short secret is more than a part of another word or number."""
    around = text[max(0, start - 1) : start] + text[end : end + 1]
    if len(word) == _SHORTEST:
        return not any(character.isalnum() for character in around)
    if len(word) < _LONG and word.isdecimal():
        return not any(character.isdecimal() for character in around)
    return True


# --- where they are ------------------------------------------------------------------------------------------------


def _secrets(check: Check) -> Iterator[str]:
    yield from _of_endpoint(check.endpoint)
    if "@" in check.endpoint and (userinfo := userinfo_of(check.endpoint)):
        yield b64encode(unquote_to_bytes(userinfo)).decode()
    match check.auth:
        case BasicAuth(username=username, password=password):
            yield from (username, password, b64encode(f"{username}:{password}".encode()).decode())
        case BearerAuth(token=token):
            yield token
    for name, value in (check.headers or {}).items():
        if _is_secret(name, value):
            yield from _of_header(name, value)
    if check.user_agent is not None and looks_secret(check.user_agent):
        yield check.user_agent
    match check.body:
        case TextBody(content=text):
            yield text
            yield text.strip()
            yield from _of_text(text)
        case FormBody(content=fields):
            yield from _leaves({**fields})
        case JsonBody(content=document):
            yield from _leaves(document)
    if check.proxy is not None:
        userinfo = userinfo_of(check.proxy)
        yield from (*secret_parts(check.proxy), b64encode(unquote_to_bytes(userinfo)).decode())


@lru_cache(maxsize=4096)
def _of_endpoint(endpoint: str) -> tuple[str, ...]:
    """Kept, for most endpoints with parameters have no secret, and are asked about at every good answer."""
    return tuple(secret_parts(endpoint)) if _TELLING_URL.search(endpoint) else ()


@lru_cache(maxsize=512)
def _is_secret(name: str, value: str) -> bool:
    return redact_header(name, value) != value


def _of_header(name: str, value: str) -> Iterator[str]:
    yield value
    if "cookie" in name.lower():
        pairs = (pair.partition("=") for pair in value.split(";"))
        yield from _leaves([{name.strip(): cookie.strip().strip('"')} for name, _, cookie in pairs])
    elif value.startswith(("http://", "https://")):
        yield from secret_parts(value)
    else:
        scheme, _, rest = value.partition(" ")
        yield rest
        if scheme.lower() == "basic":
            yield from _of_basic(rest.strip())
        for parameter in re.split(r"[\s,;]+", rest):
            name, _, each = parameter.partition("=")
            yield from _leaves({name: each.strip('"')})


def _of_basic(word: str) -> Iterator[str]:
    try:
        yield from b64decode(word).decode().split(":", 1)
    except ValueError:
        return  # It is not what it says.


def _of_text(text: str) -> Iterator[str]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        if "=" in text:
            for name, value in parse_qsl(text.strip()):
                yield from _leaves({name: value})
        yield from filter(_is_mixed, _WORD.findall(text))
    else:
        yield from _leaves(document)


def _leaves(document: JsonValue) -> Iterator[str]:
    """The texts and numbers in a document that may be secrets; see above."""
    waiting: list[tuple[str, JsonValue]] = [("", document)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.items())
        elif isinstance(value, list):
            waiting.extend((name, each) for each in value)
        elif isinstance(value, str):
            if names_secret(name) or _is_telling(value):
                yield value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            text = json.dumps(value)
            if names_secret(name) or sum(map(str.isdecimal, text)) >= 4:
                yield text


def _is_telling(text: str) -> bool:
    return len(text) >= _LONG or (len(text) >= 4 and _PLAIN_WORD.fullmatch(text) is None)


def _is_mixed(word: str) -> bool:
    return any(map(str.isalpha, word)) and any(map(str.isdecimal, word))
