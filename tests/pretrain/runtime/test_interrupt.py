"""Signals set a flag; the second Ctrl-C does not wait."""

import os
import signal
import subprocess
import sys

import pytest

from pretrain.runtime.config import REPOSITORY
from pretrain.runtime.interrupt import InterruptFlag


@pytest.mark.parametrize("number", InterruptFlag.SIGNALS)
def test_signal_sets_the_flag_says_so_and_handlers_come_back(number, capfd):
    def own(number, frame):
        raise AssertionError("the flag is not up")

    before = signal.signal(number, own)  # SIGHUP may be ignored here
    try:
        with InterruptFlag() as interrupted:
            assert not interrupted
            os.kill(os.getpid(), number)
            assert interrupted
        assert signal.getsignal(number) == own
    finally:
        signal.signal(number, before)
    assert f"{signal.Signals(number).name}: saving" in capfd.readouterr().err


def test_a_hangup_that_was_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        with InterruptFlag() as interrupted:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not interrupted
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_sets_the_flag_though_nothing_can_be_said():
    # stderr is a pipe that nobody reads, as a terminal that is gone.
    code = (
        "import os, signal\n"
        "from pretrain.runtime.interrupt import InterruptFlag\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "reader, writer = os.pipe()\n"
        "os.close(reader)\n"
        "os.dup2(writer, 2)\n"
        "with InterruptFlag() as flag:\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    assert flag\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=60)


def test_second_ctrl_c_interrupts_at_once():
    with InterruptFlag(), pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the second one raises
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_forked_pool_ends_though_a_flag_is_up():
    # Leaving a pool sends SIGTERM to its workers and waits for them. A handler of Python's would
    # sometimes come too late, so that the system's own must be back. In a process of its own, as
    # forking one that runs threads is unsafe.
    code = (
        "import multiprocessing, os, signal\n"
        "from pretrain.runtime.interrupt import InterruptFlag\n"
        "with InterruptFlag() as flag:\n"
        "    with multiprocessing.get_context('fork').Pool(4) as pool:\n"
        "        os.kill(pool.apply(os.getpid), signal.SIGINT)\n"
        "        assert pool.map(abs, [-1, -2]) == [1, 2]\n"
        "        assert pool.apply(signal.getsignal, (signal.SIGTERM,)) == signal.SIG_DFL\n"
        "    assert not flag\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=60)
