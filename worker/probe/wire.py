"""All transfers on one epoll: libcurl's multi handle, the sockets it wants watched, and the clock it wants kept."""

from __future__ import annotations

import resource
import select
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pycurl

from worker.probe.failure import CUT
from worker.probe.transfer import Transfer
from worker.probe.watchdog import Watchdog

SPARE_DESCRIPTORS = 128

_TO_EPOLL = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}


class Wire:
    """Moves transfers when it is told to, in the thread that tells it, and never waits but in :meth:`wait`."""

    def __init__(self, *wake_fds: int) -> None:
        """``wake_fds`` end :meth:`wait`, too, when they are readable."""
        self._wake_fds = frozenset(wake_fds)
        self._ready: list[tuple[int, int]] = []
        self._due: float | None = None
        self._transfers: set[Transfer] = set()
        self._watched: set[int] = set()
        self._watchdog = Watchdog()
        self._epoll = select.epoll()
        for wake_fd in wake_fds:
            self._epoll.register(wake_fd, select.EPOLLIN)
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)

    def add(self, transfer: Transfer) -> None:
        """Begins it."""
        self._watchdog.start()
        self._multi.add_handle(transfer.handle)
        self._transfers.add(transfer)

    def move(self, now: float) -> list[int]:
        """Does what the last wait found, and what the clock has; returns those of ``wake_fds`` that were among it."""
        woken = []
        for descriptor, events in self._ready:
            if descriptor in self._wake_fds:
                woken.append(descriptor)
            else:
                self._watchdog.begins(descriptor)
                self._multi.socket_action(descriptor, _to_curl(events))
                self._watchdog.ends()
        self._ready = []
        if self._due is not None and self._due <= now:
            self._due = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        return woken

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
        self._ready = self._epoll.poll(until - now, 256)
        return until

    def close(self) -> None:
        """Drops and closes all transfers. Closing twice is allowed."""
        for transfer in self._transfers:
            self._multi.remove_handle(transfer.handle)
            transfer.close()
        self._transfers.clear()
        if not self._epoll.closed:
            self._watchdog.close()
            self._multi.close()
            self._epoll.close()

    def _watch(self, what: int, descriptor: int, _multi: Any, _data: Any) -> None:
        """A wish of libcurl: to hear of a socket."""
        if what == pycurl.POLL_REMOVE:
            self._watched.discard(descriptor)
            with suppress(OSError):  # It is closed already.
                self._epoll.unregister(descriptor)
            return
        if descriptor in self._watched:  # Asking first: the error for a new one would cost as much as the call.
            try:
                self._epoll.modify(descriptor, _TO_EPOLL[what])
                return
            except FileNotFoundError:
                pass  # It was closed, and this is another.
        self._watched.add(descriptor)
        self._epoll.register(descriptor, _TO_EPOLL[what])

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
