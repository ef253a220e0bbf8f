"""The configuration of a stock worker: ``rq worker -c worker.rqconfig checks``, on any machine.

Unlike other modules it does something when it is imported, because that is all that rq does with it.
"""

from __future__ import annotations

import logging
import sys

import rq

from shared.queues import NOTIFICATIONS
from shared.settings import SettingsError, read_settings

# Imported before the first fork, so that no job has to do it again: 14 ms a job instead of 47.
try:
    _settings = read_settings()
    import worker.jobs  # noqa: F401
    from worker.mailer import preload

    preload()
    if NOTIFICATIONS in sys.argv:
        from worker.notifier import check_channels

        check_channels(_settings)
except SettingsError as error:
    sys.exit(str(error))

# What our jobs say. rq's own lines, several a job, are left out by --quiet.
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

REDIS_URL = _settings.redis

# How long an idle worker stays blind after Redis is back; rq's own limit is a minute.
rq.Worker.max_connection_wait_time = 5.0
