"""The pages for people, without a line of script but for the one that brings what is new.

=============  ====================================================================================
targets        the first page: the monitor itself, and every target in one table
target         one target: what whoever was woken up wants to know
incidents      what is down and what was, and one of them in full
acknowledging  the form that says who looks after it
outbox         what people could not be told
frame          what all pages have in common
notices        what is worth a sentence
evidence       what a check saw
pictures       what a template draws: response times, uptime, phases
words          times, ages, durations and what came of a check
=============  ====================================================================================
"""

from __future__ import annotations

from flask import Flask

from api.pages import acknowledging, incidents, outbox, target, targets


def register(app: Flask) -> None:
    """Every page at its place."""
    for page in (targets, target, incidents, outbox, acknowledging):
        page.register(app)
