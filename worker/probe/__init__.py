"""The HTTP probe: targets in, check results out. It never raises for a bad site, stores nothing and tells nobody.

==========  ========================================================================================
engine      the loop: starts checks, moves thousands of transfers in one thread, returns results
run         one check from its first attempt to its result: redirects, retries, the verdict
request     what is sent, prepared by requests
resolver    names to addresses, in threads
transfer    one libcurl handle: one request on a fresh connection, its bounds and its timings
failure     libcurl's error numbers as our reasons and sentences
interrupts  signal handlers, put off while libcurl works
==========  ========================================================================================
"""

from worker.probe.engine import Engine

__all__ = ["Engine"]
