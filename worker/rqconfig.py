"""The configuration of a stock worker: ``rq worker -c worker.rqconfig checks``, on any machine.

Unlike other modules it does something when it is imported, because that is all that rq does with it.
"""

from __future__ import annotations

import logging
import sys

import rq

from shared.settings import SettingsError, read_settings

try:
    _settings = read_settings()
except SettingsError as error:
    sys.exit(str(error))

# Imported before the first fork, so that no job has to do it again: 14 ms a job instead of 47.
import worker.jobs  # noqa: F401

REDIS_URL = _settings.redis


class _OneLineAJob(logging.Filter):
    """Drops what rq says of a job beside "Successfully completed", and most of what it says at its start."""

    _DROPPED = ("subscribing ", "cleaning ", ": Job OK", ": %s: %s (%s)", "warm shut down")

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or not any(text in str(record.msg) for text in self._DROPPED)


logging.getLogger("rq.worker").addFilter(_OneLineAJob())
rq.Worker.log_result_lifespan = False

# How long an idle worker stays blind after Redis is back; rq's own limit is a minute.
rq.Worker.max_connection_wait_time = 5.0
