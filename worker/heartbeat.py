"""A sign of life to a service outside, which raises the alarm when it stays away (a dead man's switch)."""

from __future__ import annotations

import logging

import requests
from urllib3.exceptions import HTTPError

log = logging.getLogger("heartbeat")

_TIMEOUT_SECONDS = 5.0
"""To connect, and again for the head of the answer; with one redirect, less than the job may take."""


def ping(url: str) -> bool:
    """Ask for the URL; whether an answer below 400 came. A failure is logged, and the next one comes in a minute.

    The environment's proxies and .netrc are not used.
    """
    # It spells the URLs of odd answers.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    with requests.Session() as session:
        session.trust_env = False
        session.max_redirects = 1
        try:
            with session.get(url, timeout=_TIMEOUT_SECONDS, stream=True, allow_redirects=True) as answer:
                is_taken = answer.status_code < 400
        except (requests.RequestException, HTTPError, ValueError) as error:
            # Without the error's text, which holds the URL and its secret.
            log.warning("the heartbeat was not taken: %s", type(error).__name__)
            return False
    if not is_taken:
        log.warning("the heartbeat was not taken: %d", answer.status_code)
    return is_taken
