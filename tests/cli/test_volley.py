"""Requests that are sent together, against servers that answer as they should and as they should not."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from ollamux.cli.volley import Shot, Volley, exchange
from ollamux.domain.bench import Request

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = {"response": "", "done": True, "eval_count": 2, "eval_duration": 10, "prompt_eval_count": 3}
BODY = b'{"model": "m"}'
Answer = Callable[[socket.socket], None]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def word(text: str) -> bytes:
    return json.dumps({"response": text}).encode() + b"\n"


END = chunk(json.dumps(LAST).encode() + b"\n") + chunk(b"")


@contextlib.contextmanager
def served(*answers: Answer) -> Iterator[str]:
    """Serve one connection after the other, each with an answer of its own, each in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads = []

        def one(answer: Answer, connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                asked = b""
                while not asked.endswith(BODY):
                    asked += connection.recv(65536)
                answer(connection)

        def serve() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                threads.append(threading.Thread(target=one, args=(answer, connection)))
                threads[-1].start()

        serving = threading.Thread(target=serve)
        serving.start()
        host, port = listening.getsockname()
        yield f"http://{host}:{port}"
        serving.join(10)
        for thread in threads:
            thread.join(10)


def shots(url: str, count: int = 1) -> list[Shot]:
    return [Shot(instance="a", url=url, number=number, body=BODY) for number in range(count)]


def sent(url: str, count: int = 1, timeout_s: float = 30.0) -> tuple[Request, ...]:
    volley = Volley(shots(url, count), timeout_s=timeout_s)
    while not volley.wait(0.05):
        pass
    return volley.requests()


def says(*pieces: bytes) -> Answer:
    return lambda connection: [connection.sendall(piece) for piece in pieces] and None  # type: ignore[func-returns-value]


def test_a_whole_answer_is_timed_and_counted() -> None:
    gate = threading.Event()

    def slowly(connection: socket.socket) -> None:
        connection.sendall(HEAD + chunk(word("")))
        gate.wait(10)
        connection.sendall(chunk(word("a")[:5]))
        connection.sendall(chunk(word("a")[5:] + word("b")) + END)

    with served(slowly) as url:
        volley = Volley(shots(url), timeout_s=30)
        assert not volley.wait(0.05)
        assert volley.requests()[0].first_token_s is None, "an empty text is no token"
        waited = volley.requests()[0].ended_s
        gate.set()
        while not volley.wait(0.05):
            pass
        (request,) = volley.requests()
    assert request.error is None and (request.tokens, request.prompt_tokens) == (2, 3)
    assert request.first_token_s is not None and waited <= request.first_token_s <= request.ended_s


ANSWERS = {
    "the server went away without an answer": says(),
    "the server broke off in the middle of its answer": says(HEAD, chunk(word("a")), b"50\r\nx"),
    "the answer broke off before its end": says(HEAD, chunk(word("a")), chunk(b"")),
    "the answer was empty": says(HEAD, chunk(b"")),
    "the answer is not one of ollama": says(HEAD, chunk(b"<html>\n"), END),
    "unexpected EOF": says(HEAD, chunk(word("a")), chunk(b'{"error":"unexpected EOF"}\n'), chunk(b"")),
    "model 'x' not found": says(
        b'HTTP/1.1 404 Not Found\r\nContent-Length: 31\r\n\r\n{"error":"model \'x\' not found"}'
    ),
    "answered with 502": says(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"),
    "the answer is not HTTP: BadStatusLine": says(b"SSH-2.0-x\r\n\r\n"),
}


@pytest.mark.parametrize("error", ANSWERS)
def test_what_is_no_answer_is_told_in_words_and_the_others_go_on(error: str) -> None:
    with served(ANSWERS[error], says(HEAD, chunk(word("a")), END)) as url:
        found = sent(url, 2)
    assert sorted(str(request.error) for request in found) == sorted([error, "None"])


def test_a_server_that_is_not_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
    (request,) = sent(f"http://{host}:{port}")
    assert request.error == "Connection refused"


def test_one_that_hangs_is_cut_when_its_time_is_up_and_its_server_notices() -> None:
    noticed = []

    def hangs(connection: socket.socket) -> None:
        connection.sendall(HEAD + chunk(word("a")))
        connection.settimeout(20)
        noticed.append(connection.recv(1))

    with served(hangs) as url:
        (request,) = sent(url, timeout_s=0.3)
    assert request.error == "no answer within 0.3 s" and request.first_token_s is not None
    assert noticed == [b""], "the server was hung up on"


def test_an_interrupt_cuts_those_that_go_on_and_keeps_what_has_ended() -> None:
    first = threading.Event()

    def whole(connection: socket.socket) -> None:
        connection.sendall(HEAD + chunk(word("a")) + END)
        first.set()

    def hangs(connection: socket.socket) -> None:
        connection.recv(1)

    with served(whole, hangs) as url:
        volley = Volley(shots(url, 2), timeout_s=30)
        first.wait(10)
        while sum(request.tokens is not None for request in volley.requests()) < 1:
            assert not volley.wait(0.02)
        volley.cut("interrupted")
        found = {request.error for request in volley.requests()}
        assert found == {None, "interrupted"} and volley.wait(1.0)


def test_an_answer_that_is_no_http_is_an_error_of_the_connection() -> None:
    with served(says(b"\x00\x01")) as url, pytest.raises(OSError, match="not HTTP"):
        exchange(url, "POST", "/api/show", {"model": "m"}, timeout_s=5)
