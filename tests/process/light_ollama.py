"""The least that passes for `ollama serve`: starts within milliseconds, answers every question in the same way."""

import _socket
import os
import sys

BODY = b'{"version":"0.32.15","models":[]}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"

if "--version" in sys.argv:
    sys.exit("Warning: client version is 0.32.15")
host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
listener = _socket.socket()
listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
listener.bind((host, int(port)))
listener.listen(16)
while True:
    connection = _socket.socket(fileno=listener._accept()[0])
    try:
        connection.recv(4096)
        connection.send(HEAD % len(BODY) + BODY)
    except OSError:
        pass
    connection.close()
