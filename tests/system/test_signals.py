import signal

import pytest

from optbench.system.signals import SIGNALS, Stop, handlers_restored


@pytest.fixture
def stop():
    with handlers_restored():
        stop = Stop()
        stop.listen()
        yield stop


def send(*names):
    for name in names:
        signal.raise_signal(signal.Signals[name])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR2"])
def test_it_remembers_the_signal(stop, name):
    assert stop.signal is None
    send(name)
    assert stop.signal == signal.Signals[name]


@pytest.mark.parametrize(
    "names",
    [
        ["SIGTERM", "SIGTERM", "SIGTERM"],
        ["SIGUSR2", "SIGUSR2", "SIGTERM"],
        ["SIGINT", "SIGTERM", "SIGUSR2"],
        ["SIGTERM", "SIGINT"],
    ],
)
def test_more_signals_do_nothing_more(stop, names):
    send(*names)
    assert stop.signal == signal.Signals[names[0]]


@pytest.mark.parametrize("names", [["SIGINT"], ["SIGINT", "SIGTERM"]])
def test_a_second_interrupt_means_at_once(stop, names):
    send(*names)
    with pytest.raises(KeyboardInterrupt):
        send("SIGINT")
    assert stop.signal == signal.SIGINT


def test_it_listens_again_where_a_library_has_taken_its_place(stop):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    send("SIGTERM")
    assert stop.signal is None
    stop.listen()
    send("SIGTERM")
    assert stop.signal == signal.SIGTERM


def test_it_gets_what_came_while_the_signals_were_blocked():
    with handlers_restored():
        stop = Stop()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        signal.raise_signal(signal.SIGTERM)  # to this thread: another one may not have blocked it
        assert stop.signal is None
        stop.listen()
        assert stop.signal == signal.SIGTERM
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {*SIGNALS}


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_handlers_are_put_back(error):
    def mine(number, frame):
        pass

    with handlers_restored():
        for number in SIGNALS:
            signal.signal(number, mine)
        try:
            with handlers_restored():
                Stop().listen()
                assert signal.getsignal(signal.SIGTERM) is not mine
                if error is not None:
                    raise error
        except KeyboardInterrupt:
            pass
        assert [signal.getsignal(number) for number in SIGNALS] == [mine] * 3
