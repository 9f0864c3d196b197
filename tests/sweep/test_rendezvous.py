import socket
import time

import pytest
from mortal_workers import fork, wait

from optbench.errors import UserError
from optbench.store import StoreError
from optbench.sweep.worker.rendezvous import Meeting, attend, call, call_off


@pytest.fixture
def path(tmp_path):
    return tmp_path / "meeting.json"


def test_several_processes_meet(path, tmp_path):
    def come(rank):
        meeting = attend(path, 20, f"rank {rank}")
        (tmp_path / f"rank{rank}").write_text(f"{meeting.host} {meeting.port}")

    pids = [fork(come, rank) for rank in (1, 2, 3)]
    time.sleep(0.3)
    assert not list(tmp_path.iterdir())
    meeting = call(path)
    assert [wait(pid) for pid in pids] == [0] * 3
    assert {(tmp_path / f"rank{rank}").read_text() for rank in (1, 2, 3)} == {f"{meeting.host} {meeting.port}"}
    assert meeting.host == socket.gethostname()


def test_rank_0_can_listen_where_it_says_and_others_reach_it(path):
    with socket.create_server(("", call(path).port)) as server:
        meeting = attend(path, 1, "rank 1")
        socket.create_connection((meeting.address, meeting.port), timeout=5).close()
        server.accept()[0].close()


def test_each_attempt_has_a_port_of_its_own_while_the_last_one_is_in_use(path):
    with socket.create_server(("", call(path).port)) as server:
        assert call(path).port != server.getsockname()[1]


@pytest.mark.parametrize(("host", "address"), [(socket.gethostname(), "127.0.0.1"), ("another-node", "another-node")])
def test_the_address_is_the_loopback_on_one_machine_only(host, address):
    assert Meeting(host, 1234).address == address


def test_a_meeting_that_is_called_off_has_no_port(path):
    call_off(path)
    assert attend(path, 1, "rank 1").port == 0


def test_nobody_is_waited_for_longer_than_agreed(path):
    began = time.monotonic()
    with pytest.raises(UserError, match=rf"rank 1 has waited 1 s for rank 0, which has not written {path}"):
        attend(path, 1, "rank 1")
    assert 1 <= time.monotonic() - began < 3


def test_a_damaged_file_is_reported_at_once(path):
    path.write_text('{"host": "no')
    with pytest.raises(StoreError, match=r"meeting\.json is damaged"):
        attend(path, 20, "rank 1")
