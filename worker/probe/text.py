"""What came from outside, made fit to be shown: plain characters, without secrets, and not endless. Pure."""

from __future__ import annotations

import codecs
import re

from shared.endpoint import MASK, looks_secret, names_secret

_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE | re.ASCII)
# Only these: Python's codecs hold things such as punycode and unicode_escape, too.
_KNOWN = re.compile(
    r"utf-?(?:8|16|32)|us-ascii|ascii|iso-?8859-|latin|windows-|cp\d|koi8|shift|euc-|gb|big5", re.IGNORECASE
)

# "password": "..."    password=...    api_key: ...
_PAIR = re.compile(
    r"(?P<name>[\w.-]{1,64})(?P<is>[\"']?\s*[:=]\s*)(?P<value>\"[^\"]*\"?|'[^']*'?|[^\s\"'&;,<>{}\[\]]+)"
)
_WORD = re.compile(r"[A-Za-z0-9_+/=.-]{24,}", re.ASCII)
_USERINFO = re.compile(r"//[^/\s@\"'<>]*@")
_SCHEME = re.compile(r"\b(basic|bearer)\s+(?=[^\s\"']*[0-9=])[A-Za-z0-9_+/=.~-]{6,}", re.IGNORECASE)


def plain(text: str) -> str:
    """The text without a control, separator or formatting character; line ends and tabs become spaces."""
    return "".join(each if each.isprintable() else " " if each.isspace() else "\ufffd" for each in text)


def plain_lines(text: str) -> str:
    """As :func:`plain`, but line ends and tabs stay."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(
        each if each.isprintable() or each in "\n\t" else " " if each.isspace() else "\ufffd" for each in lines
    )


def cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "\u2026"


def decode(body: bytes, content_type: str) -> str:
    """The text of a body, whatever it holds: by its charset where that is a known one, else by its mark, else UTF-8."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if body.startswith(mark):
            return body.decode(name, "replace")
    named = _CHARSET.search(content_type)
    if named and _KNOWN.match(named[1]):
        try:
            return body.decode(named[1], "replace")
        except (LookupError, ValueError):  # No such codec, or one that cannot replace.
            pass
    return body.decode("utf-8", "replace")


def mask(text: str) -> str:
    """The text with whatever a name or the look tells to be a secret masked."""
    text = _SCHEME.sub(lambda match: f"{match[1]} {MASK}", text)
    text = _USERINFO.sub(f"//{MASK}@", text)
    text = _PAIR.sub(_mask_pair, text)
    return _WORD.sub(lambda match: MASK if looks_secret(match[0]) else match[0], text)


def _mask_pair(match: re.Match[str]) -> str:
    if not names_secret(match["name"]):
        return match[0]
    quote = match["value"][0] if match["value"][0] in "\"'" else ""
    return f"{match['name']}{match['is']}{quote}{MASK}{quote}"
