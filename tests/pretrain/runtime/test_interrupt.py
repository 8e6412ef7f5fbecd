"""Signals set a flag; the second Ctrl-C does not wait."""

import os
import signal

import pytest

from pretrain.runtime.interrupt import InterruptFlag


@pytest.mark.parametrize("number", InterruptFlag.SIGNALS)
def test_signal_sets_the_flag_says_so_and_handlers_come_back(number, capfd):
    before = signal.getsignal(number)
    with InterruptFlag() as interrupted:
        assert not interrupted
        os.kill(os.getpid(), number)
        assert interrupted
    assert signal.getsignal(number) == before
    assert f"{signal.Signals(number).name}: saving" in capfd.readouterr().err


def test_second_ctrl_c_interrupts_at_once():
    with InterruptFlag(), pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the second one raises
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
