"""All transfers on one epoll: libcurl's multi handle, the sockets it wants watched, and the clock it wants kept."""

from __future__ import annotations

import resource
import select
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pycurl

from worker.probe.absence import Absences
from worker.probe.failure import CUT
from worker.probe.lateness import Lateness
from worker.probe.transfer import Transfer
from worker.probe.watchdog import Watchdog
from worker.probe.witness import Witness

SPARE_DESCRIPTORS = 128
_AT_ONCE = 1024
HEAR_EVERY_SECONDS = 0.001
"""How often the wire asks what has come while it works."""
LATE_SECONDS = 0.01
"""What it is late with by less is no matter: to know it for sure costs 8 us."""

_TO_EPOLL = {
    pycurl.POLL_IN: select.EPOLLIN | select.EPOLLET,
    pycurl.POLL_OUT: select.EPOLLOUT | select.EPOLLET,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT | select.EPOLLET,
}


class _Watch:
    """A socket that libcurl wants watched, and the account of the exchange that it was opened for."""

    __slots__ = ("account", "arrived_at", "descriptor", "events", "is_armed", "ready")

    def __init__(self, descriptor: int, events: int, account: Lateness | None) -> None:
        self.descriptor = descriptor
        self.events = events
        self.account = account
        self.is_armed = True
        """Whether epoll would tell, too, of what libcurl has left there."""
        self.ready = 0
        """What epoll told of it and libcurl does not know yet."""
        self.arrived_at = 0.0
        """When the latest of that had come, monotonic: then, or up to a moment before."""


class Wire:
    """Moves transfers when it is told to, in the thread that tells it, and never waits but in :meth:`wait`.

    What the network has for a transfer may have to wait until others have got theirs. So the wire asks in between what
    has come by now, and accounts for how late it hands that over. Epoll tells of each arrival once, of a further one
    behind it again: an answer behind a session ticket, the end behind the body.
    """

    def __init__(self, absences: Absences, *wake_fds: int) -> None:
        """``wake_fds`` end :meth:`wait`, too, when they are readable; ``absences`` are told when nobody asked."""
        self._absences = absences
        self._wake_fds = frozenset(wake_fds)
        self._woken: set[int] = set()
        self._ready: deque[_Watch] = deque()
        self._heard_at = time.monotonic()
        self._due: float | None = None
        self._transfers: set[Transfer] = set()
        self._watched: dict[int, _Watch] = {}
        self._accounts: dict[int, Lateness] = {}  # by socket
        self._watchdog = Watchdog()
        self._epoll = select.epoll()
        for wake_fd in wake_fds:
            self._epoll.register(wake_fd, select.EPOLLIN)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)

    def add(self, transfer: Transfer) -> None:
        """Begins it, with the next call of :meth:`set_off` or :meth:`move`."""
        self._watchdog.start()
        transfer.accounts = self._accounts
        self._multi.add_handle(transfer.handle)
        self._transfers.add(transfer)

    def move(self, now: float) -> set[int]:
        """Does what is ready, and what the clock has; returns those of ``wake_fds`` that were among it.

        That nobody asked until ``now`` is the caller's to explain.
        """
        if now - self._heard_at > HEAR_EVERY_SECONDS:
            self._listen()
        for _ in range(len(self._ready)):
            self._tell(self._ready.popleft())
        self.set_off()
        woken, self._woken = self._woken, set()
        return woken

    def hear(self) -> None:
        """Asks what has come by now, if that was some time ago; to be called often by whoever works meanwhile."""
        now = time.monotonic()
        if now - self._heard_at > HEAR_EVERY_SECONDS:
            self._absences.note(self._heard_at, now, is_deaf=False)
            self._listen()

    def _listen(self) -> None:
        self._note(self._epoll.poll(0, _AT_ONCE))

    def _note(self, found: list[tuple[int, int]]) -> None:
        self._heard_at = now = time.monotonic()
        for descriptor, events in found:
            if descriptor in self._wake_fds:
                self._woken.add(descriptor)
            elif watch := self._watched.get(descriptor):  # Else libcurl has closed it meanwhile.
                if not watch.ready:
                    self._ready.append(watch)
                watch.ready |= events
                watch.arrived_at = now

    def _tell(self, watch: _Watch) -> None:
        self.hear()
        if self._watched.get(watch.descriptor) is not watch:
            return  # libcurl has closed it meanwhile.
        account, now = watch.account, time.monotonic()
        late_seconds = now - watch.arrived_at
        if account is None or late_seconds <= LATE_SECONDS or account.sockets > 1:
            self._hand_over(watch)
            if account is not None and account.is_known:
                account.note(now, 0.0)
        elif watch.events & select.EPOLLIN:
            self._hand_over_late(watch, account)
        else:
            self._hand_over(watch)
            account.note(now, late_seconds)  # It is connected, or it is not: nothing more can have come in meanwhile.

    def _hand_over_late(self, watch: _Watch, account: Lateness) -> None:
        """It was that late if no more comes in while libcurl reads."""
        witness = Witness.of(watch.descriptor)
        self._listen()  # All that the witness will not see come has been heard of now.
        now = time.monotonic()
        account.open(witness, now, now - watch.arrived_at)
        self._hand_over(watch)
        account.close()

    def set_off(self) -> None:
        """Does what the clock has, and so begins what was added."""
        if self._due is not None and self._due <= time.monotonic():
            self._due = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def _hand_over(self, watch: _Watch) -> None:
        ready, watch.ready = watch.ready, 0
        watch.is_armed = False
        self._watchdog.begins(watch.descriptor)
        self._multi.socket_action(watch.descriptor, _to_curl(ready))
        self._watchdog.ends()
        if not watch.is_armed and self._watched.get(watch.descriptor) is watch:
            with suppress(OSError):  # It is closed, and libcurl will say so.
                self._epoll.modify(watch.descriptor, watch.events)

    def finished(self) -> Iterator[tuple[Transfer, int]]:
        """The transfers that ended, off the wire now, each with libcurl's error number; 0 is an answer to its end."""
        left = 1
        while left:
            left, fine, failed = self._multi.info_read()
            for handle, error in [
                *((handle, 0) for handle in fine),
                *((handle, number) for handle, number, _ in failed),
            ]:
                transfer: Transfer = handle.transfer
                was_cut = error and self._was_cut(handle)
                self._multi.remove_handle(handle)
                self._transfers.discard(transfer)
                yield transfer, CUT if was_cut else error

    def _was_cut(self, handle: Any) -> bool:
        """Whether the watchdog ended the transfer; told once, for ports are used again."""
        cut = self._watchdog.cut_ports
        port = handle.getinfo(pycurl.LOCAL_PORT) if cut else 0
        if port not in cut:
            return False
        cut.discard(port)
        return True

    def wait(self, now: float, until: float) -> float:
        """Until the network has something, at the longest ``until``, monotonic. Returns when it meant to be back."""
        if self._due is not None:
            until = min(until, self._due)
        until = max(now, until)
        if self._ready:
            until = now
        self._note(self._epoll.poll(until - now, _AT_ONCE))
        return until

    def close(self) -> None:
        """Drops and closes all transfers. Closing twice is allowed."""
        for transfer in self._transfers:
            self._multi.remove_handle(transfer.handle)
            transfer.close()
        self._transfers.clear()
        self._accounts.clear()
        self._ready.clear()
        if not self._epoll.closed:
            self._watchdog.close()
            self._multi.close()
            self._epoll.close()

    def _watch(self, what: int, descriptor: int, _multi: Any, _data: Any) -> None:
        """A wish of libcurl: to hear of a socket."""
        watch = self._watched.get(descriptor)
        if what == pycurl.POLL_REMOVE:
            self._accounts.pop(descriptor, None)
            if watch is not None:
                self._forget(watch)
                with suppress(OSError):  # It is closed already.
                    self._epoll.unregister(descriptor)
            return
        events = _TO_EPOLL[what]
        if watch is not None:  # Asking first: the error for a new one would cost as much as the call.
            try:
                self._epoll.modify(descriptor, events)
            except FileNotFoundError:
                pass  # It was closed, and this is another.
            else:
                watch.events = events
                watch.is_armed = True
                return
            self._forget(watch)
        account = self._accounts.get(descriptor)
        if account is not None:
            account.sockets += 1
        self._watched[descriptor] = _Watch(descriptor, events, account)
        self._epoll.register(descriptor, events)

    def _forget(self, watch: _Watch) -> None:
        del self._watched[watch.descriptor]
        if watch.account is not None:
            watch.account.sockets -= 1

    def _set_timer(self, milliseconds: int) -> None:
        """A wish of libcurl: to be called again, whatever the sockets do; -1 takes it back."""
        self._due = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000


def _to_curl(events: int) -> int:
    """What epoll saw, in libcurl's words."""
    mask = 0
    if events & select.EPOLLIN:
        mask |= pycurl.CSELECT_IN
    if events & select.EPOLLOUT:
        mask |= pycurl.CSELECT_OUT
    if events & (select.EPOLLERR | select.EPOLLHUP):
        mask |= pycurl.CSELECT_ERR
    return mask


def fit_descriptors(max_transfers: int) -> int:
    """How many transfers this process has descriptors for, after raising its own soft limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * max_transfers + SPARE_DESCRIPTORS  # pycurl holds each socket twice while it is opened.
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return max_transfers
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(max_transfers, (soft - SPARE_DESCRIPTORS) // 2))
