"""A stranger that writes down every signal it gets: `decoy.py RECORD [HOST PORT] [more words]`. Standard library only.

A line of the record is the signal, whether the sender is of the run to which the record belongs, and who it was. With
an address it listens there and answers every request as an ollama would.
"""

import os
import signal
import socket
import sys
import threading

record = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def sender(pid):
    """Tell of a sender whether it belongs to the run, and its words. One that is gone is taken for one of the run."""
    words, env = read(f"/proc/{pid}/cmdline"), read(f"/proc/{pid}/environ")
    root = os.fsencode(os.path.dirname(sys.argv[1]))
    foreign = env and root not in env and root not in words
    return f"{'foreign' if foreign else 'ours'} {pid} {words.replace(bytes(1), b' ').decode(errors='replace')}"


def serve(listener):
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                connection.settimeout(2.0)
                connection.recv(65536)
                body = b'{"version":"0.32.15"}'
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                connection.sendall(head.encode() + body)
            except OSError:
                pass


watched = {number for number in signal.valid_signals() if number <= signal.SIGSYS} - {signal.SIGKILL, signal.SIGSTOP}
signal.pthread_sigmask(signal.SIG_BLOCK, watched)
if len(sys.argv) > 3 and sys.argv[3].isdigit():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((sys.argv[2], int(sys.argv[3])))
    listener.listen(16)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
os.write(1, b"ready\n")
while True:
    found = signal.sigwaitinfo(watched)
    os.write(record, f"{signal.Signals(found.si_signo).name} {sender(found.si_pid)}\n".encode())
