"""Read a server's log as it grows and say what it means. Pure: bytes in, events out.

The log holds the server's own lines (`time=… level=… msg=…`), those of its runners without any prefix, and both may
stand in one line, since a runner prints dots without an end of line. Line numbers and order differ between releases, so
only messages are matched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from ollamux.domain.text import safe_text
from ollamux.ollama import events as ev
from ollamux.ollama.device import normal_pci

LONGEST_LINE = 16 * 1024
_CITED = 400

_STAMP = re.compile(r'time="?\d{4}-\d\d-\d\dT')
_PAIR = re.compile(r'(?<!\S)("(?:[^"\\]|\\.)*"|[^\s="]+)=("(?:[^"\\]|\\.)*"|\S*)')
_LISTENING = re.compile(r"Listening on (\S+) \(version ([^)]+)\)")
_STARTED = re.compile(r"(?:llama-server|llama runner) started in ([\d.]+) seconds")
_MODEL = re.compile(r"\s--model (.+?)(?=\s--[a-z]|$)")
_PORT = re.compile(r"\s--port (\d{1,5})\b")
_IN_USE = re.compile(r"using device (\S+)\s+\((.*)\)\s+\(([^()]*)\)\s+-\s+(\d{1,9})\s+MiB free")
_OFFLOADED = re.compile(r"offloaded\s+(\d{1,6})/(\d{1,6})\s+layers to GPU")
_BUFFER = re.compile(
    r"\b([A-Za-z_]\w*):\s+(\S+)\s+(model|KV|compute|output|RS)\s+buffer size\s*=\s*(\d{1,9}(?:\.\d{1,4})?)\s*MiB"
)
_DONE = re.compile(
    r'\[GIN\] [^|]+\| +200 +\|[^|]*\|[^|]*\| +POST +"'
    r"(/api/(?:generate|chat|embed|embeddings)|/v1/(?:chat/completions|completions|embeddings|responses|messages))"
    r'(\?[^"]*)?"'
)
_OURS = "?ollamux="
_PANIC = re.compile(r"(?:panic|fatal error|SIGSEGV|SIGQUIT|SIGBUS|SIGABRT): ")
_SIZE = re.compile(r"(\d{1,12}(?:\.\d)?) (B|KiB|MiB|GiB)")
_SIZE_FACTORS = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_SLOG_BUFFERS = {"model weights": "model", "kv cache": "KV", "compute graph": "compute"}
_OUT_OF_MEMORY = (
    "out of memory",
    "out of device memory",
    "cudamalloc failed",
    "hipmalloc failed",
    "failed to allocate",
    "not enough memory",
    "insufficient memory",
    "erroroutofdevicememory",
    "runtime oom detected",
)


class LogReader:
    """Turns pieces of a log, cut anywhere, into events. One reader for one run of one server."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._blob: str | None = None

    def feed(self, data: bytes) -> list[ev.LogEvent]:
        """Take the next piece; return what its whole lines say."""
        found: list[ev.LogEvent] = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._keep(data[start:end])
            found.extend(self._end_of_line())
            start = end + 1
        self._keep(data[start:])
        return found

    @property
    def unread(self) -> int:
        """How many bytes of a line that has not ended yet were taken."""
        return len(self._partial)

    def close(self) -> list[ev.LogEvent]:
        """Take what is left for a line: no more will come."""
        return self._end_of_line()

    def _keep(self, piece: bytes) -> None:
        self._partial += piece[: max(LONGEST_LINE - len(self._partial), 0)]

    def _end_of_line(self) -> list[ev.LogEvent]:
        raw, self._partial = bytes(self._partial), bytearray()
        if not raw:
            return []
        found = parse_line(raw.decode("utf-8", "replace").rstrip("\r"), blob=self._blob)
        for event in found:
            if isinstance(event, ev.RunnerStarting):
                self._blob = event.blob
        return found


def parse_line(text: str, *, blob: str | None = None) -> list[ev.LogEvent]:
    """Say what one line means; mostly nothing. `blob` is the model whose runner was started last."""
    stamp = _STAMP.search(text)
    if stamp is None:
        return _plain(text, blob)
    at = stamp.start()
    before = _plain(text[:at], blob) if at else []
    return [*before, *_structured(slog_fields(text[at:]), text[at:], blob)]


def slog_fields(line: str) -> dict[str, str]:
    """Return the keys and values of a `key=value key="quoted value"` line."""
    return {_unquote(key): _unquote(value) for key, value in _PAIR.findall(line)}


def _unquote(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    if "\\" not in text:
        return text[1:-1]
    try:
        return str(json.loads(re.sub(r"\\x([0-9a-f]{2})", r"\\u00\1", text), strict=False))
    except ValueError:
        return text[1:-1]


def human_size(text: str) -> int | None:
    """Return the bytes of a size as ollama writes it, such as "23.6 GiB" or "0 B"."""
    match = _SIZE.fullmatch(text)
    return None if match is None else int(float(match[1]) * _SIZE_FACTORS[match[2]])


def cite(line: str) -> str:
    """Make a line of a log fit to be shown."""
    return safe_text(line.strip(), limit=_CITED)


def _structured(fields: dict[str, str], line: str, blob: str | None) -> list[ev.LogEvent]:
    message = fields.get("msg", "")
    exact = _EXACT.get(message)
    if exact is not None:
        event = exact(fields, cite(line))
        failed = isinstance(event, ev.LoadFailed | ev.RunnerEnded)
        return [event, ev.OutOfMemory(line=cite(line))] if failed and _tells_oom(line) else [event]
    if message in ("starting llama-server", "starting runner"):
        return _runner_starting(fields.get("cmd", ""), line)
    if match := _LISTENING.search(message):
        return [ev.Listening(address=match[1], version=match[2], line=cite(line))]
    if match := _STARTED.search(message):
        return [ev.RunnerStarted(blob=blob, seconds=_number(match[1]), line=cite(line))]
    if match := _OFFLOADED.search(message):
        return [_layers(match, blob, line)]
    if message in _SLOG_BUFFERS:
        return _slog_buffer(fields, line, blob)
    if fields.get("level") in ("WARN", "ERROR", "INFO") and _tells_oom(line):
        return [ev.OutOfMemory(line=cite(line))]
    return []


def _device(fields: dict[str, str], line: str) -> ev.LogEvent:
    return ev.DeviceLine(
        library=fields.get("library", ""),
        id=fields.get("id", ""),
        filter_id=fields.get("filter_id", ""),
        pci_id=normal_pci(fields.get("pci_id", "")),
        name=safe_text(fields.get("description") or fields.get("name", ""), limit=120),
        total_bytes=human_size(fields.get("total", "")),
        line=line,
    )


def _ended(fields: dict[str, str], line: str) -> ev.LogEvent:
    context = fields.get("default_num_ctx", "")
    return ev.DiscoveryEnded(
        total_vram_bytes=human_size(fields.get("total_vram", "")),
        default_context=int(context) if context.isascii() and context.isdigit() and len(context) < 12 else None,
        line=line,
    )


def _failed_discovery(fields: dict[str, str], line: str) -> ev.LogEvent:
    return ev.DiscoveryFailed(reason=safe_text(fields.get("error") or fields["msg"], limit=_CITED), line=line)


def _load_failed(fields: dict[str, str], line: str) -> ev.LogEvent:
    reason = safe_text(fields.get("error") or fields["msg"], limit=_CITED)
    return ev.LoadFailed(model=fields.get("model"), reason=reason, line=line)


def _runner_ended(fields: dict[str, str], line: str) -> ev.LogEvent:
    return ev.RunnerEnded(
        reason=safe_text(fields.get("error") or fields.get("string") or fields["msg"], limit=_CITED), line=line
    )


_EXACT: dict[str, Callable[[dict[str, str], str], ev.LogEvent]] = {
    "inference compute": _device,
    "vram-based default context": _ended,
    "discovering available GPUs...": lambda _, line: ev.DiscoveryStarted(line=line),
    "looking for compatible GPUs": lambda _, line: ev.DiscoveryStarted(line=line),
    "llama-server GPU discovery watchdog timed out": _failed_discovery,
    "llama-server discovery: timed out waiting for server startup": _failed_discovery,
    "failure during llama-server GPU discovery": _failed_discovery,
    "failure during GPU discovery": _failed_discovery,
    "no compatible GPUs were discovered": _failed_discovery,
    "NVIDIA driver too old": _failed_discovery,
    "unable to refresh free memory, using old values": lambda _, line: ev.StaleVram(line=line),
    "llama-server terminated": _runner_ended,
    "llama-server process no longer running": _runner_ended,
    "llama runner process no longer running": _runner_ended,
    "Load failed": _load_failed,
    "failed to create server": _load_failed,
}


def _runner_starting(command: str, line: str) -> list[ev.LogEvent]:
    model = _MODEL.search(command)
    if model is None:
        # Era B looks for devices with a runner that has no model.
        return []
    port = _PORT.search(command)
    return [ev.RunnerStarting(blob=model[1], port=int(port[1]) if port else None, line=cite(line))]


def _slog_buffer(fields: dict[str, str], line: str, blob: str | None) -> list[ev.LogEvent]:
    size, device = human_size(fields.get("size", "")), fields.get("device", "")
    if size is None or not device:
        return []
    kind = _SLOG_BUFFERS[fields["msg"]]
    return [_buffer(("ollama", device, kind), size, blob, line)]


def _plain(text: str, blob: str | None) -> list[ev.LogEvent]:
    """Read a line of a runner, or one that the server wrote before it had a log."""
    if text.startswith("Error: ") or _PANIC.match(text):
        return [ev.Fatal(reason=cite(text), line=cite(text))]
    if "buffer size" in text and (match := _BUFFER.search(text)):
        key = (match[1], match[2], match[3])
        return [_buffer(key, int(float(match[4]) * 1024**2), blob, text)]
    if "[GIN] " in text:
        done = _DONE.search(text)
        ours = done is None or (done[2] or "").startswith(_OURS)
        return [] if done is None or ours else [ev.RequestDone(path=done[1], line=cite(text))]
    if match := _OFFLOADED.search(text):
        return [_layers(match, blob, text)]
    if match := _IN_USE.search(text):
        return [_in_use(match, blob, text)]
    return [ev.OutOfMemory(line=cite(text))] if _tells_oom(text) else []


def _buffer(key: tuple[str, str, str], size: int, blob: str | None, line: str) -> ev.BufferSize:
    component, device, kind = key
    return ev.BufferSize(
        blob=blob,
        component=component,
        device=_base_device(device),
        kind=kind,
        size_bytes=size,
        on_gpu=not (device in ("CPU", "BLAS") or device.startswith("CPU_") or device.endswith("_Host")),
        line=cite(line),
    )


def _base_device(name: str) -> str:
    for suffix in ("_Mapped", "_REPACK", "_Private"):
        name = name.removesuffix(suffix)
    return name


def _layers(match: re.Match[str], blob: str | None, line: str) -> ev.LayersOffloaded:
    return ev.LayersOffloaded(blob=blob, offloaded=int(match[1]), total=int(match[2]), line=cite(line))


def _in_use(match: re.Match[str], blob: str | None, line: str) -> ev.DeviceInUse:
    return ev.DeviceInUse(
        blob=blob,
        device=match[1],
        name=safe_text(match[2], limit=120),
        pci_id=normal_pci(match[3]),
        free_bytes=int(match[4]) * 1024**2,
        line=cite(line),
    )


def _tells_oom(text: str) -> bool:
    lowered = text.lower()
    return any(sign in lowered for sign in _OUT_OF_MEMORY)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
