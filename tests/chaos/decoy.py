"""A stranger that writes down every signal it gets: `decoy.py RECORD [HOST PORT] [more words]`. Standard library only.

With an address it listens there and answers every request as an ollama would.
"""

import os
import signal
import socket
import sys
import threading

record = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def write_down(number, frame):
    os.write(record, f"{signal.Signals(number).name}\n".encode())


def serve(listener):
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                connection.settimeout(2.0)
                connection.recv(65536)
                connection.sendall(
                    b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\nConnection: close\r\n\r\n{"version":"0.32.15"}'
                )
            except OSError:
                pass


for number in signal.valid_signals():
    if number not in (signal.SIGKILL, signal.SIGSTOP) and number <= signal.SIGSYS:
        signal.signal(number, write_down)
if len(sys.argv) > 3 and sys.argv[3].isdigit():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((sys.argv[2], int(sys.argv[3])))
    listener.listen(16)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
os.write(1, b"ready\n")
while True:
    signal.pause()
