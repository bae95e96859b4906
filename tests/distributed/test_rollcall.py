import re
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from dinov3_jax.distributed import rollcall
from dinov3_jax.distributed.rollcall import HostsError
from tests.distributed.launcher import free_port


def answers(callers, *, timeout=20.0):
    """What each of ``callers``, (index, count), is told: None or an error."""
    address = f"127.0.0.1:{free_port()}"

    def call(caller):
        index, count = caller
        try:
            rollcall.call(address, index=index, count=count, timeout=timeout)
        except HostsError as error:
            return str(error)

    with ThreadPoolExecutor(len(callers)) as pool:
        return list(pool.map(call, callers))


def test_all_there():
    assert answers([(2, 4), (1, 4), (0, 4), (3, 4)]) == [None] * 4


def test_everybody_hears_who_is_missing():
    heard = answers([(0, 4), (2, 4)], timeout=2.0)
    wanted = r"processes 1, 3 of 4 did not call process 0 at 127\.0\.0\.1:\d+ within 2 s"
    assert all(re.match(wanted, text) for text in heard)


def test_the_log_tells_whom_it_waits_for(monkeypatch, caplog):
    monkeypatch.setattr(rollcall, "_REMINDER", 0.2)
    answers([(0, 3), (2, 3)], timeout=1.0)
    assert "waiting for process 1 of 3 at 127.0.0.1" in caplog.text


def test_without_process_0():
    (heard,) = answers([(1, 2)], timeout=1.0)
    assert re.match(r"process 1 of 2 cannot reach process 0 at 127\.0\.0\.1:\d+ .* 1 s", heard)


def test_two_of_one_index():
    heard = answers([(0, 3), (1, 3), (1, 3)])
    assert all("two processes say that they are process 1" in text for text in heard)


def test_other_counts():
    heard = answers([(0, 3), (1, 2)])
    assert all("expects 3 processes, process 1 of 2 called" in text for text in heard)


def test_strangers_are_not_counted():
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(rollcall.call, f"127.0.0.1:{port}", index=0, count=2, timeout=20.0)]
        while True:
            try:
                stranger = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:
                continue
        with stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n")
        results.append(
            pool.submit(rollcall.call, f"127.0.0.1:{port}", index=1, count=2, timeout=20.0)
        )
        assert [result.result() for result in results] == [None, None]


def test_something_else_at_that_port():
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        caller = pool.submit(rollcall.call, address, index=1, count=2, timeout=5.0)
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
        with pytest.raises(HostsError, match="hung up: an older run may still hold that port"):
            caller.result()


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(HostsError, match=f"cannot listen on 127.0.0.1:{port} .*another port"):
            rollcall.call(f"127.0.0.1:{port}", index=0, count=2, timeout=5.0)
