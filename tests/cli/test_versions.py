"""A command and a supervisor of different versions: words and a way out, never a traceback."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import pytest
from cli_rig import Place, is_plain_error

REFUSED = 7
COMMANDS = ["status", "status gpus -o json", "status -o wide", "down", "restart a", "stop --all", "env a", "sim crash"]
NEWER = {"v": 2, "ok": False, "exit": 7, "message": "the supervisor speaks protocol 2, the command speaks 1"}
ANSWERS = {
    "newer": json.dumps({**NEWER, "hint": "they are of different versions"}),
    "of a code nobody knows": json.dumps({**NEWER, "exit": 42, "hint": None}),
    "no object": "[1]",
    "without a verdict": '{"v": 2}',
    "no JSON": "\x00\x01 not for you",
    "deep": "[" * 100_000,
}


@contextlib.contextmanager
def foreign_supervisor(place: Place, answer: str) -> Iterator[None]:
    """Listen where the supervisor would, and give everybody the same answer."""
    place.run_dir.mkdir(mode=0o700)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place.run_dir / "ollamux.sock"))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer.encode() + b"\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
        (place.run_dir / "ollamux.sock").unlink()


@pytest.mark.parametrize("kind", ANSWERS)
def test_C28_a_supervisor_of_another_version_is_told_and_nothing_else(place: Place, kind: str) -> None:
    with foreign_supervisor(place, ANSWERS[kind]):
        for words in COMMANDS:
            result = place.run(*words.split())
            assert result.code == (1 if "code" in kind else REFUSED), (words, result)
            assert is_plain_error(result.err) and result.out == "", (words, result)
            told = "the command speaks 1" if kind in ("newer", "of a code nobody knows") else "of another version"
            assert told in result.err, (words, result)
