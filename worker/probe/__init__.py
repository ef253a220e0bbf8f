"""The HTTP probe: targets in, check results out. It never raises for a bad site, stores nothing and tells nobody.

===========  =======================================================================================
engine       the loop: starts checks, moves thousands of transfers in one thread, returns results
line         who may begin: so many at once, so many to one host, and as many bodies as there is memory for
purse        that memory
run          one check from its first attempt to its result: its hops, its judgement
retries      which failure is followed by another attempt, and when
hop          one request on its way to the wire: the names to look up, and what their addresses allow
resolver     names to addresses, in threads
name_servers whose fault it is when no name has an answer
request      what is sent, prepared by requests
redirects    which request follows a redirect, and what of the former one goes with it
way          how a check connects where it does so in its own way: TLS, versions, proxy
proxy        proxies, and why one does not forward
transfer     one libcurl handle: one request on a fresh connection, its bounds and its timings
exchange     what came of it
wire         all transfers on one epoll
lateness     what the loop was late with in an exchange
witness      whether it was that late, or something came in just then
tcp_info     what the system knows of a connection
absence      when the loop did not look at all
watchdog     ends what libcurl would never end
failure      libcurl's error numbers as our reasons and sentences
certificate  the server's certificates, and what was wrong with them
evidence     what is shown of an answer, without secrets
text         what came from outside, made fit to be shown
interrupts   signal handlers, put off while libcurl works
===========  =======================================================================================
"""

from worker.probe.engine import Engine

__all__ = ["Engine"]
