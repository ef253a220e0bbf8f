"""The server's certificates as libcurl lists them (CURLINFO_CERTINFO), and what was wrong with them, in words.

libcurl lists them only where asked: it prints every field of the whole chain, which costs a sixth of an HTTPS check.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import ssl
from collections.abc import Mapping, Sequence
from functools import lru_cache

from shared.monitor import CertificateSeen
from worker.probe.text import cut, plain

Chain = Sequence[Sequence[tuple[str, str]]]
"""For each certificate that the server sent, its own first, pairs of a field's name and its value."""

_LONGEST_NAME = 120
_MOST_NAMES = 3

_COMMON_NAME = re.compile(r'(?:^|[,+] ?)CN ?= ?("(?:[^"\\]|\\.)*"|(?:[^,+\\]|\\.)*)')
_ORGANIZATION = re.compile(r'(?:^|[,+] ?)O ?= ?("(?:[^"\\]|\\.)*"|(?:[^,+\\]|\\.)*)')
_ALTERNATIVE = re.compile(r"(?:DNS|IP Address):([^,\s]+)")

_FAULTS = {  # OpenSSL's X509_V_ERR numbers
    1: "is not valid for this host",  # What libcurl sets before the handshake; its own comparison failed then.
    2: "was not signed by a known authority",
    9: "is not valid yet",
    10: "has expired",
    18: "is signed by itself",
    19: "was not signed by a known authority",
    20: "was not signed by a known authority",
    21: "was not signed by a known authority",
    23: "was revoked",
    24: "was signed by a certificate that may not sign others",
    62: "is not valid for this host",
    64: "is not valid for this host",
}
_EARLY, _EXPIRED, _SELF_SIGNED, _OTHER_HOST = 9, 10, 18, (1, 62, 64)
_UNKNOWN_AUTHORITY = (2, 19, 20, 21)


def certificate_seen(chain: Chain | None) -> CertificateSeen | None:
    """The server's own certificate; None when there is none, or none that can be read."""
    return _read(tuple(chain[0])) if chain else None


def certificate_days(seen: CertificateSeen | None, now: int) -> float | None:
    """Days until it expires, negative afterwards; ``now`` in milliseconds since the epoch."""
    return (seen.not_after - now) / 86_400_000 if seen else None


def certificate_sentence(verify_result: int, chain: Chain | None, now: int) -> str:
    """Why the certificate was refused, with whatever of it tells people which one it is and what to do."""
    sentence = f"the certificate {_FAULTS.get(verify_result, 'could not be verified')}"
    seen = certificate_seen(chain)
    if seen is None or chain is None:
        return sentence
    if verify_result in (_EXPIRED, _EARLY):
        return _when(chain, now, is_over=verify_result == _EXPIRED) or sentence
    if verify_result in _OTHER_HOST:
        return f"{sentence}; it is for {_names(chain)}"
    if verify_result == _SELF_SIGNED:
        return f"{sentence} (CN={seen.subject})"
    if verify_result in _UNKNOWN_AUTHORITY:
        return f"{sentence} (issued by {seen.issuer})"
    return sentence


@lru_cache(maxsize=512)
def _read(pairs: tuple[tuple[str, str], ...]) -> CertificateSeen | None:
    fields = dict(pairs)
    try:
        der = ssl.PEM_cert_to_DER_cert(fields["Cert"].strip())
        begin, end = (ssl.cert_time_to_seconds(fields[name]) * 1000 for name in ("Start date", "Expire date"))
    except (KeyError, ValueError, binascii.Error):
        return None
    return CertificateSeen(
        subject=_subject(fields),
        issuer=_common_name(fields.get("Issuer", "")) or "an issuer without a name",
        not_before=begin,
        not_after=end,
        sha256=hashlib.sha256(der).hexdigest(),
    )


def _when(chain: Chain, now: int, *, is_over: bool) -> str | None:
    """Which certificate of the chain is out of its time, and by how much."""
    for position, pairs in enumerate(chain):
        seen = _read(tuple(pairs))
        if seen is None:
            continue
        which = "the certificate" if position == 0 else "an intermediate certificate"
        if is_over and seen.not_after < now:
            return f"{which} expired {_duration(now - seen.not_after)} ago (CN={seen.subject})"
        if not is_over and seen.not_before > now:
            return f"{which} is valid only from {_from_now(seen.not_before - now)} (CN={seen.subject})"
    return None


def _duration(milliseconds: int) -> str:
    minutes = milliseconds // 60_000
    for size, unit in ((1440, "day"), (60, "hour"), (1, "minute")):
        if minutes >= size:
            count = minutes // size
            return f"{count:,} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"


def _from_now(milliseconds: int) -> str:
    duration = _duration(milliseconds)
    return "tomorrow" if duration == "1 day" else f"{duration} from now"


def _subject(fields: Mapping[str, str]) -> str:
    """The common name, else the first name that the certificate is for."""
    own = _COMMON_NAME.search(fields.get("Subject", ""))
    if own:
        return _clean(own[1])
    names = _alternatives(fields)
    return names[0] if names else "a subject without a name"


def _common_name(distinguished: str) -> str | None:
    match = _COMMON_NAME.search(distinguished) or _ORGANIZATION.search(distinguished)
    return _clean(match[1]) if match else None


def _alternatives(fields: Mapping[str, str]) -> list[str]:
    return [_clean(name) for name in _ALTERNATIVE.findall(fields.get("X509v3 Subject Alternative Name", ""))]


def _names(chain: Chain) -> str:
    fields = dict(chain[0])
    names = _alternatives(fields) or [_subject(fields)]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _clean(name: str) -> str:
    return cut(plain(name.strip('" ')).strip(), _LONGEST_NAME)
