"""Where the links in mails lead; those that do something by themselves are signed, and good for a while."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer

_SALT = "acknowledge-incident"
"""What the signature is for: a token of another purpose, made with the same secret, is none of these."""


def target_url(public_url: str, target_id: str) -> str:
    """The page of a target."""
    return f"{public_url.rstrip('/')}/targets/{quote(target_id, safe='')}"


def incidents_url(public_url: str) -> str:
    """The page that lists the incidents."""
    return f"{public_url.rstrip('/')}/incidents"


def acknowledge_url(public_url: str, secret: bytes | str, incident_id: str, *, now: int) -> str:
    """Where a click acknowledges the incident: ``{public_url}/acknowledge?token=...``.

    ``now`` is in milliseconds since the epoch and goes into the token, which holds nothing else but the incident's id.
    The token can be read by everyone and made by nobody without the secret. Programs that look through mails follow
    links: the page behind it should do nothing before somebody presses a button there.
    """
    token = _serializer(secret, now).dumps(incident_id)
    query = urlencode({"token": token if isinstance(token, str) else token.decode()})
    return f"{public_url.rstrip('/')}/acknowledge?{query}"


def read_acknowledge_token(secret: bytes | str, token: str, *, max_age_seconds: int = 7 * 86_400) -> str | None:
    """The id of the incident to acknowledge; None for a token that is forged, cut, of another purpose, or too old."""
    if not token.isascii():
        return None
    try:
        incident_id = _serializer(secret).loads(token, max_age=max_age_seconds)
    except BadData:
        return None
    return incident_id if isinstance(incident_id, str) else None


def _serializer(secret: bytes | str, now: int | None = None) -> URLSafeTimedSerializer:
    if not secret:
        # itsdangerous would sign with it all the same, and everyone could.
        raise ValueError("a link needs a secret that is not empty")
    options = {} if now is None else {"at": now // 1000}
    return URLSafeTimedSerializer(secret, salt=_SALT, signer=_Signer, signer_kwargs=options)


class _Signer(TimestampSigner):
    """Signs as if it were ``at``, in seconds since the epoch; reads, like its parent, by the clock."""

    def __init__(self, *arguments: object, at: int | None = None, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]  # passed through as they are
        self._at = at

    def get_timestamp(self) -> int:
        """Seconds since the epoch."""
        return super().get_timestamp() if self._at is None else self._at
