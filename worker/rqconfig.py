"""The configuration of a stock worker: ``rq worker -c worker.rqconfig checks``, on any machine.

Unlike other modules it does something when it is imported, because that is all that rq does with it.
"""

from __future__ import annotations

import logging
import sys

import rq

from shared.queues import NOTIFICATIONS
from shared.settings import SettingsError, settings_of_this_process
from worker.preload import preload

try:
    _settings = settings_of_this_process()
    if NOTIFICATIONS in sys.argv:
        from worker.alerts.notifier import check_channels

        check_channels(_settings)
except SettingsError as error:
    sys.exit(str(error))

# What our jobs say. rq's own lines, several a job, are left out by --quiet.
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

REDIS_URL = _settings.redis

# How long an idle worker stays blind after Redis is back; rq's own limit is a minute.
rq.Worker.max_connection_wait_time = 5.0

preload()
