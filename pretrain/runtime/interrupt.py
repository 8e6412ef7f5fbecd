"""Signals set a flag; the loop asks for it at the end of a step, saves and leaves."""

import contextlib
import os
import signal
from collections.abc import Collection
from types import FrameType

EXIT_CODE = 75  # EX_TEMPFAIL: the run saved itself; the same command with --resume goes on


class Interrupted(Exception):
    """Raised by a loop after it has saved itself in answer to a signal.

    signals: the names of those that this process received; other ranks may have others.
    """

    def __init__(self, message: str = "", signals: Collection[str] = ()) -> None:
        super().__init__(message)
        self.signals = tuple(signals)


class InterruptFlag:
    """True once SIGINT, SIGTERM, SIGUSR2 or SIGHUP came; a second SIGINT interrupts at once.

    SIGHUP comes where a terminal is closed or its connection is lost. It stays ignored where it
    was, as nohup has it.
    Use as a context manager: handlers are put back at its end. A process forked within ends at
    SIGTERM and ignores the others, which may reach a whole group of processes.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)

    def __init__(self) -> None:
        self.received: list[str] = []
        self._previous: dict[int, object] = {}
        self._pid = os.getpid()

    def __enter__(self) -> "InterruptFlag":
        nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        numbers = [n for n in self.SIGNALS if not (n == signal.SIGHUP and nohup)]
        self._previous = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __bool__(self) -> bool:
        return bool(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return
        if number == signal.SIGINT and "SIGINT" in self.received:
            raise KeyboardInterrupt
        self.received.append(signal.Signals(number).name)
        with contextlib.suppress(OSError):  # the terminal is gone
            os.write(2, f"{self.received[-1]}: saving as soon as this step ends\n".encode())


def _end_at_sigterm() -> None:
    """In a forked process. A handler of Python's would not do: it waits while a lock is waited for,
    and so would a pool that sent SIGTERM to its idle workers."""
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(getattr(handler, "__self__", None), InterruptFlag):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_end_at_sigterm)
