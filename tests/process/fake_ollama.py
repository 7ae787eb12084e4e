"""A server that looks like `ollama serve` from outside and fails in every way a supervisor has to survive.

It shares no code with the program under test and imports only the standard library. It is told what to do by knobs:
the environment variable FAKE_READY_GATE, or a file `ready-gate` in the folder FAKE_DIR, which a test may write or
remove while the server runs.

At the start:   STARTS=path (one line per start) · DUMP=path (what was inherited, as JSON) · KEY_S=seconds (makes a key
                as ollama does: looks, waits, writes) · DAEMONISE · EXIT=code, with WORDS on standard error
Before HTTP:    BIND_GATE, READY_GATE=path (waits until the file is there) · DEVICE_LINES=text for the log
The answers:    STREAM_PIECES=count (of what /api/chat streams)
                HANG_API · HANG_PS · SLOW_S=seconds · STATUS=code · NO_PS · RAW=text (sent in place of HTTP) · ENDLESS
                · CHUNKS (a body that never ends) · PS=JSON · TRICKLE_S=seconds between bytes · VERSION=text
                · GENERATE="status JSON" · HANG_GENERATE · SHOW="status JSON"
                · KILL_RUNNER_ON_GENERATE · ASKED=path (one line for each question)
The end:        IGNORE_TERM · TERM_GATE=path · EXIT_NOW=code (looked at all the time) · KILL_SESSION
Its runners:    RUNNERS=count · RUNNER_SETSID · RUNNER_IGNORE_TERM · RUNNER_BUSY · ORPHAN (a daemon without a mark)
                · RUNNER_WORDS (further arguments)
                · RUNNER_AGAIN (one that was killed is replaced); on SIGUSR1 one begins to compute, on SIGUSR2 it stops
Whatever the knobs say, a server that is started while another one, or a runner of it, is there leaves a file `overlap`.
Its log:        FLOOD=bytes at the start · FLOOD_LINES=lines per answer · FLOOD_NOW=bytes, in lines, from now on
"""

import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time

FOLDER = os.environ.get("FAKE_DIR")
RUNNERS = []
CHANGING = threading.Lock()
POLL_S = 0.01
ORDERS = {signal.SIGUSR1, signal.SIGUSR2}


def knob(name):
    """Return what a knob is set to, or None."""
    if FOLDER is not None:
        try:
            with open(os.path.join(FOLDER, name.lower().replace("_", "-")), encoding="utf-8") as file:
                return file.read()
        except OSError:
            pass
    return os.environ.get(f"FAKE_{name}")


def wait_for_gate(name):
    path = knob(name)
    while path and not os.path.exists(path):
        time.sleep(POLL_S)


def append(path, line):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode() + b"\n")
    os.close(fd)


def inherited():
    """Tell what this process was given. Its own descriptor of the listing is left out."""
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    umask = os.umask(0)
    os.umask(umask)
    return {
        "argv": sys.argv,
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "sid": os.getsid(0),
        "pgid": os.getpgid(0),
        "cwd": os.getcwd(),
        "umask": umask,
        "env": dict(os.environ),
        "fds": descriptors,
        "append": bool(int(fdinfo(1)["flags"], 8) & os.O_APPEND),
    }


def fdinfo(fd):
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def say(text):
    """Write to the log, whole; a full disk is no reason to stop."""
    data = text.encode() + b"\n"
    try:
        while data:
            data = data[os.write(2, data) :]
    except OSError:
        pass


def claim():
    """Hold a lock as long as this server or any of its runners lives, and tell where an earlier one still holds it."""
    if FOLDER is None:
        return
    fd = os.open(os.path.join(FOLDER, "claimed"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        append(os.path.join(FOLDER, "overlap"), f"{os.getpid()} was started while an earlier one was there")
    os.set_inheritable(fd, True)


def make_key(seconds):
    path = os.path.join(os.environ["HOME"], ".ollama", "id_ed25519")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.exists(path):
        time.sleep(float(seconds))
        append(path, f"key of {os.getpid()}")


def start_runner(number):
    words = [sys.executable, "-IS", os.path.abspath(__file__), "runner", "--model", f"/blobs/sha256-{number:064}"]
    words += (knob("RUNNER_WORDS") or "").split()
    # Orders wait from its very first moment: one that came before it could take them would end it.
    return os.posix_spawn(sys.executable, words, os.environ, setsid=bool(knob("RUNNER_SETSID")), setsigmask=ORDERS)


def start_runners():
    if knob("RUNNER_IGNORE_TERM"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is ignored is inherited: they are deaf from the start
    RUNNERS.extend(start_runner(number) for number in range(int(knob("RUNNERS") or 0)))
    if knob("ORPHAN") and os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(3, 64)
            os.execve(sys.executable, [sys.executable, "-IS", os.path.abspath(__file__), "runner"], {"FAKE_LONER": "1"})
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if knob("IGNORE_TERM") else end)


def run_as_runner():
    busy = bool(knob("RUNNER_BUSY"))
    signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)
    while True:
        while busy and not ORDERS & signal.sigpending():
            sum(range(1000))
        busy = signal.sigwait(ORDERS) == signal.SIGUSR1


def replace_runners():
    with CHANGING:
        for number, pid in enumerate(RUNNERS):
            if os.waitpid(pid, os.WNOHANG)[0]:
                RUNNERS[number] = start_runner(number)


def end(number, frame):
    wait_for_gate("TERM_GATE")
    CHANGING.acquire()  # by the main thread, which never holds it otherwise
    for pid in RUNNERS:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os._exit(0)


def watch_knobs():
    while True:
        code = knob("EXIT_NOW")
        if code:
            say(knob("WORDS") or "")
            os._exit(int(code))
        if knob("FLOOD_NOW"):
            flood(int(knob("FLOOD_NOW")))
        if knob("KILL_SESSION"):
            os.killpg(0, signal.SIGKILL)
        if knob("RUNNER_AGAIN"):
            replace_runners()
        time.sleep(POLL_S)


def flood(size):
    """Write so much to the log, a megabyte at a time, then say so."""
    line = '[GIN] 2026/01/31 - 12:00:05 | 200 | 1.2ms | 10.0.0.1 | POST "/api/generate"'
    block = ((line + "\n") * 12000).encode()
    while size > 0:
        size -= os.write(2, block)
        time.sleep(POLL_S)
    os.unlink(os.path.join(FOLDER, "flood-now"))


def respond(connection, status, body, kind="application/json"):
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    data = head.encode() + body
    pause = float(knob("TRICKLE_S") or 0)
    while pause and data:
        connection.sendall(data[:1])
        data = data[1:]
        time.sleep(pause)
    connection.sendall(data)


def stream(connection):
    """Answer piece by piece for a while, as a model does; the last piece says that it is the last."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n")
    for _ in range(int(knob("STREAM_PIECES") or 50)):
        connection.sendall(b'{"done":false}\n')
        time.sleep(POLL_S)
    connection.sendall(b'{"done":true}\n')


def hang(connection):
    connection.recv(1)


def answer(connection):
    try:
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                piece = connection.recv(65536)
                if not piece:
                    return
                request += piece
            head, _, body = request.partition(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
            )
            while len(body) < length:
                body += connection.recv(65536)
            method, target = head.split(b" ")[:2]
            if method == b"POST":
                say(f'[GIN] 2026/01/31 - 12:00:00 | 200 |     1.23ms |       127.0.0.1 | POST     "{target.decode()}"')
            for number in range(int(knob("FLOOD_LINES") or 0)):
                say(f"[GIN] a line about this request, number {number}")
            answer_path(connection, target.decode(), body.decode())
    except OSError:
        pass


def answer_path(connection, target, body):
    path = target.partition("?")[0]
    time.sleep(float(knob("SLOW_S") or 0))
    if knob("HANG_API") or (knob("HANG_PS") and path == "/api/ps"):
        hang(connection)
    elif knob("RAW"):
        connection.sendall(knob("RAW").encode())
    elif knob("ENDLESS"):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)
    elif knob("CHUNKS"):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"1\r\n \r\n")
            time.sleep(POLL_S)
    elif knob("STATUS"):
        respond(connection, int(knob("STATUS")), b'{"error":"no"}')
    elif path == "/api/version":
        respond(connection, 200, json.dumps({"version": knob("VERSION") or "0.32.15"}).encode())
    elif path == "/api/ps" and not knob("NO_PS"):
        respond(connection, 200, (knob("PS") or '{"models":[]}').encode())
    elif path == "/api/chat":
        stream(connection)
    elif path == "/api/generate":
        if knob("ASKED"):
            append(knob("ASKED"), f"{time.monotonic()} {target} {body}")
        if knob("KILL_RUNNER_ON_GENERATE"):
            os.kill(RUNNERS[0], signal.SIGKILL)
        if knob("HANG_GENERATE"):
            hang(connection)
            return
        status, _, said = (knob("GENERATE") or '200 {"response":"x","done":true,"eval_count":1}').partition(" ")
        respond(connection, int(status), said.encode())
    elif path == "/api/show":
        status, _, said = (knob("SHOW") or '200 {"capabilities":["completion"]}').partition(" ")
        respond(connection, int(status), said.encode())
    else:
        respond(connection, 404, b"404 page not found", "text/plain")


def listen():
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    host = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
    except OSError as error:
        say(f"Error: listen tcp {host}:{port}: bind: {error.strerror.lower()}")
        os._exit(1)
    listener.listen(64)
    return listener


def serve():
    if knob("DUMP"):
        report = inherited()
        with open(knob("DUMP") + ".new", "w", encoding="utf-8") as file:
            json.dump(report, file)
        os.rename(knob("DUMP") + ".new", knob("DUMP"))
    if knob("STARTS"):
        append(knob("STARTS"), f"{os.getpid()} {os.environ.get('OLLAMUX_GENERATION')} {time.monotonic()}")
    claim()
    if knob("EXIT"):
        say(knob("WORDS") or "")
        os._exit(int(knob("EXIT")))
    if knob("DAEMONISE") and os.fork() != 0:
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if knob("IGNORE_TERM") else end)
    if knob("KEY_S"):
        make_key(knob("KEY_S"))
    if knob("FLOOD"):
        say("x" * int(knob("FLOOD")))
    say("the server says that it starts")
    wait_for_gate("BIND_GATE")
    listener = listen()
    start_runners()
    # Signals are for the main thread alone, which waits for nothing else.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if FOLDER is not None:
        threading.Thread(target=watch_knobs, daemon=True).start()
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    while True:
        signal.pause()


def accept(listener):
    wait_for_gate("READY_GATE")
    if knob("DEVICE_LINES"):
        say(knob("DEVICE_LINES"))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def main():
    if "--version" in sys.argv:
        print("Warning: could not connect to a running Ollama instance\nWarning: client version is 0.32.15")
    elif sys.argv[1:2] == ["serve"]:
        serve()
    elif sys.argv[1:2] == ["runner"]:
        run_as_runner()
    else:
        sys.exit("Error: unknown command")


if __name__ == "__main__":
    main()
