"""An answer as the assertions read it: decoded and parsed once, within one budget of work.

A limit of the monitor's own says nothing of the answer: what it leaves open is undecided, which is not broken. Pure but
for the clock.
"""

from __future__ import annotations

import codecs
import gc
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from encodings.aliases import aliases
from functools import cached_property
from itertools import islice
from typing import Any

import orjson
from jsonpath_rfc9535 import JSONPathNode
from jsonpath_rfc9535.segments import JSONPathRecursiveDescentSegment, JSONPathSegment
from jsonpath_rfc9535.selectors import FilterSelector

from shared.assertions.accepted import compiled, filter_size, query
from shared.endpoint import MASK, is_plain_text, looks_secret

LARGEST_BODY = 1024 * 1024
"""Bytes of a body that assertions see at the most."""
LONGEST_FOUND = 100
_LOOKED_AT = 2000

QUICK_STEPS = 1_000
"""All the work that a quick judgement may do, 3 ms at the worst. A step takes 1 to 3 us, and often much less."""
MOST_SECONDS = 1.5
"""All the CPU time that the assertions of one answer may take, but for one last piece of at most half a second."""
_STEPS_AT_ONCE = 500
"""So many between two looks at the clock."""
_PATTERN_WORK_IN_A_STEP = 250
"""Instructions of a pattern times bytes that it reads: 10 ns for one of them at the worst."""
_PATTERN_WORK_AT_ONCE = 40_000_000
"""How much more one search may be than the one before it: 0.45 s at the worst, 2 ms as a rule."""
_LARGEST_DOCUMENT = 18_000_000
"""Bytes of memory that a parsed document may take. A mebibyte of ordinary JSON takes 4 to 12 million."""
_BYTES_A_PIECE = ((b"{", 250), (b"[", 90), (b",", 60))
_DECODED_AT_ONCE = 32 * 1024

_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE | re.ASCII)
# Of Python's codecs those that the browsers' encoding standard has. The others are no charsets of documents, and
# punycode's and idna's time is quadratic.
_CODECS = {
    *("ascii", "utf_8", "utf_16", "utf_16_le", "utf_16_be", "latin_1", "cp866", "koi8_r", "koi8_u", "mac_roman"),
    *(f"iso8859_{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)),
    *(f"cp125{page}" for page in range(9)),
    *("gb2312", "gbk", "gb18030", "big5", "euc_jp", "iso2022_jp", "shift_jis", "euc_kr", "cp932", "cp949", "cp874"),
}


Conceal = Callable[[str], str]
"""Masks in a text what the check sends and nobody is to see."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What assertions are held against."""

    headers: Sequence[tuple[str, str]]
    body: bytes | bytearray
    """Decoded, the first MiB of it at the most."""
    elapsed_ms: float
    certificate_days: float | None
    """Days until the server's certificate expires; None without TLS."""
    lost_ms: float = 0.0
    """How much of ``elapsed_ms`` the monitor may have lost itself."""
    conceal: Conceal = str
    """Asked for every text that is quoted, before it is cut."""


class UnjudgedError(Exception):
    """The answer is not what the assertion can be held against, so that it does not hold; says what was found."""


class UndecidedError(Exception):
    """A limit of the monitor's own keeps it from knowing whether the assertion holds; says which."""


class TooMuchError(Exception):
    """More work than a quick judgement may do."""


class Reading:
    """One answer, decoded and parsed once, and the budget of all work on it.

    ``pause`` is called once a millisecond or so, so that a thread can let others run. Without it the reading is a quick
    one, which raises :class:`TooMuchError` for what may take longer than a few milliseconds.
    """

    def __init__(self, answer: Answer, pause: Callable[[], None] | None = None) -> None:
        self.answer = answer
        self._pause = pause
        self._steps = 0
        self._look_at = QUICK_STEPS if pause is None else 0
        self._until = time.thread_time() + MOST_SECONDS

    def spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps >= self._look_at:
            if self._pause is None:
                raise TooMuchError
            self._look_at = self._steps + _STEPS_AT_ONCE
            self._pause()
            self._seconds_left()

    def _seconds_left(self) -> float:
        left = self._until - time.thread_time()
        if left <= 0:
            raise UndecidedError(f"this check's assertions take more than {MOST_SECONDS:g} s of computing")
        return left

    @property
    def is_cut(self) -> bool:
        """Whether the body may go on after what was read of it."""
        return len(self.answer.body) >= LARGEST_BODY

    @cached_property
    def text(self) -> str:
        kind = next((value for name, value in self.answer.headers if name.lower() == "content-type"), "")
        match = _CHARSET.search(kind[:1000])
        label = re.sub(r"[ .:-]", "_", match[1].lower()) if match else "utf_8"
        codec = aliases.get(label, label)
        body, parts = self.answer.body, []
        if codec == "utf_16" and not body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            codec = "utf_16_le"  # As the browsers read it; the incremental decoder would raise.
        decoder = codecs.getincrementaldecoder(codec if codec in _CODECS else "utf_8")(errors="replace")
        for begin in range(0, len(body), _DECODED_AT_ONCE):
            part = bytes(body[begin : begin + _DECODED_AT_ONCE])
            self.spend(len(part) // 100)
            parts.append(decoder.decode(part))
        parts.append(decoder.decode(b"", final=True))
        return "".join(parts).removeprefix("\ufeff")

    @cached_property
    def utf8(self) -> bytes:
        return self.text.encode("utf-8", errors="replace")

    @cached_property
    def document(self) -> object:
        """The body as JSON, which is UTF-8 (RFC 8259, 8.1). orjson refuses NaN, and more than 1,024 levels."""
        body = self.answer.body
        if body.startswith(b"\xef\xbb\xbf"):
            body = body[3:]
        self.spend(len(body) // 100)
        if sum(body.count(piece) * size for piece, size in _BYTES_A_PIECE) > _LARGEST_DOCUMENT:
            raise UndecidedError("the body has more objects, arrays and values than are read as JSON")
        is_collecting = gc.isenabled()
        gc.disable()  # It would look through the growing document again and again, and treble the time.
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            if self.is_cut and body[:1000].lstrip()[:1] in b'{["':
                raise UndecidedError(f"the body is longer than the {bytes_of(LARGEST_BODY)} that are read") from None
            raise UnjudgedError("the body is not JSON") from None
        finally:
            if is_collecting:
                gc.enable()

    @property
    def size(self) -> str:
        """How long the body is, for people, as far as it is known."""
        size = bytes_of(len(self.answer.body))
        return f"the first {size}" if self.is_cut else f"a body of {size}"

    def find(self, text: str) -> int:
        """Where the body has this text; -1 when it has not."""
        self.spend(1 + len(self.text) // 1000)
        return self.text.find(text)

    def search(self, pattern: str, text: bytes) -> str | None:
        """What of ``text`` the pattern matches, None without a match.

        RE2 cannot be stopped, so the text is searched as far as takes half a second at the worst, and then again a
        piece further each time, as long as there is time for it. RE2 looks beyond the end of such a piece for ``$`` and
        word boundaries, so that a match in it is one of the whole.
        """
        program = compiled(pattern)
        size = max(program.programsize, 1)
        self.spend(5 + len(text) * size // _PATTERN_WORK_IN_A_STEP)
        at_once = max(_PATTERN_WORK_AT_ONCE // size, 1)
        end = min(at_once, len(text))
        while True:
            left = self._seconds_left()
            match = program.search(text, 0, end)
            if match is not None:
                return str(match.group().decode(errors="replace"))
            if end == len(text):
                return None
            further = min(end + at_once, len(text))
            still_left = self._until - time.thread_time()
            if (left - still_left) * further > still_left * end:
                raise UndecidedError(f"the pattern takes too long to search {bytes_of(len(text))}")
            end = further

    def select(self, path: str) -> Iterator[object]:
        """The values that a path selects, in the document's order, lazily.

        Only the selectors are the library's: its descent takes a generator for each level and copies a location for
        each node, which makes a deep document quadratic, and it counts no steps.
        """
        values: Iterable[object] = [self.document]
        for segment in query(path).segments:
            if isinstance(segment, JSONPathRecursiveDescentSegment):
                values = self._descend(values)
            values = self._choose(segment, values)
        return iter(values)

    def _descend(self, values: Iterable[object]) -> Iterator[object]:
        for top in values:
            waiting = [top]
            while waiting:
                value = waiting.pop()
                yield value
                if isinstance(value, dict | list):
                    self.spend(1 + len(value) // 8)
                    members = value.values() if isinstance(value, dict) else value
                    waiting.extend(reversed([member for member in members if isinstance(member, dict | list)]))

    def _choose(self, segment: JSONPathSegment, values: Iterable[object]) -> Iterator[object]:
        selector = segment.selectors[0]
        weight = filter_size(selector)
        root: Any = self.document
        for value in values:
            self.spend(1)
            for part in _parts(value, weight) if isinstance(selector, FilterSelector) else (value,):
                self.spend(weight * len(part) if isinstance(part, dict | list) else 0)
                for node in selector.resolve(JSONPathNode(value=part, location=(), parent=None, root=root)):
                    self.spend(1)
                    yield node.value


def _parts(value: object, weight: int) -> Iterator[object]:
    """An object or an array in pieces that a filter looks through in a millisecond or two."""
    size = max(_STEPS_AT_ONCE // max(weight, 1), 1)
    if isinstance(value, list) and len(value) > size:
        yield from (value[begin : begin + size] for begin in range(0, len(value), size))
    elif isinstance(value, dict) and len(value) > size:
        members = iter(value.items())
        while part := dict(islice(members, size)):
            yield part
    else:
        yield value


def bytes_of(count: int) -> str:
    return f"{count:,} byte{'' if count == 1 else 's'}"


def quoted(text: str, conceal: Conceal = str, *, secret: bool = False) -> str:
    """A text between quotation marks, cut, with spaces for what is not plain; masked when it looks like a secret.

    More of it is looked at than shown, and masked before it is cut, so that no secret is shown by its beginning.
    """
    if secret or looks_secret(text[:_LOOKED_AT]):
        return MASK
    concealed = conceal(text[:_LOOKED_AT])
    plain = "".join(character if is_plain_text(character) else " " for character in concealed[: LONGEST_FOUND - 20])
    is_whole = len(plain) == len(concealed) and len(text) <= _LOOKED_AT
    return f'"{plain}"' if is_whole else f'"{plain}..."'


def shown(value: object, conceal: Conceal = str, *, secret: bool = False) -> str:
    """A JSON value for people. Objects and arrays are only counted: their members have names of their own to hide."""
    if isinstance(value, str):
        return quoted(value, conceal, secret=secret)
    if isinstance(value, dict):
        return f"an object of {len(value):,}"
    if isinstance(value, list):
        return f"an array of {len(value):,}"
    return orjson.dumps(value).decode()


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
