"""What a server's log says of one load: how it was asked for, the layers that went to a GPU, each buffer. Pure.

The log is the judge of where a model is: `/api/ps` counts only one of the two caches of a model with sliding windows,
and calls a model wholly on the GPU once all its layers count as offloaded, wherever parts of them are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ollamux.domain.text import format_size
from ollamux.ollama import events as ev
from ollamux.ollama.log import parse_line, slog_fields

WEIGHTS, KV, STATE, COMPUTE, OUTPUT = "weights", "kv", "state", "compute", "output"
_KINDS = {"model": WEIGHTS, "KV": KV, "RS": STATE, "compute": COMPUTE, "output": OUTPUT}
_ADDED = frozenset({WEIGHTS, KV, STATE})
"""Printed once for each buffer; of the others the last line holds, since a graph may be reserved anew."""
_LAYOUT = "ollama"
"""The component of what the server works out before 0.30; where the runner tells buffers itself, they are finer."""

_WORD = re.compile(r"\s(-c|-np|-ub|-ngl)\s+(\d{1,9})\b")
_PORT = re.compile(r"\s--port\s+(\d{1,5})\b")
_OLDER = re.compile(r"\{Operation:\w+ .*?Parallel:(\d{1,6}) BatchSize:(\d{1,9}) .*?KvSize:(\d{1,12}) ")
_OVERFLOWING = re.compile(r"common_params_fit_impl: {1,8}- .*: {1,8}\d{1,6} layers \( {0,8}(\d{1,6}) overflowing\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """All buffers of one kind on one device. `device` as the log has it: "CUDA0", "CPU", "CUDA_Host"."""

    device: str
    kind: str
    size_bytes: int
    on_gpu: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One load. `offloaded` and `total` count layers; a runner without a GPU tells neither.

    `asked` is the num_gpu that was asked for, None where the server chose. `overflowing` layers have parts in host
    memory. `context` is that of one sequence. `devices` are the PCI addresses of the devices in use, by their names.
    """

    port: int | None
    offloaded: int | None = None
    total: int | None = None
    asked: int | None = None
    overflowing: int = 0
    context: int | None = None
    parallel: int | None = None
    batch: int | None = None
    buffers: tuple[Buffer, ...] = ()
    devices: tuple[tuple[str, str], ...] = ()

    @property
    def wanted(self) -> int | None:
        """Return how many layers were to go to a GPU."""
        if self.total is None or self.asked is None:
            return self.total
        return min(self.asked, self.total)

    @property
    def is_as_asked(self) -> bool:
        """Whether layers stay in host memory because whoever asked for the model asked for that."""
        if self.asked == 0:
            return True
        if self.asked is None or self.total is None or self.offloaded is None:
            return False
        return self.asked < self.total and self.offloaded >= self.asked

    @property
    def has_fallen(self) -> bool:
        """Whether nothing is on a GPU, though nobody asked for that."""
        return self.asked != 0 and not self.offloaded and not any(buffer.on_gpu for buffer in self.buffers)

    def size(self, *kinds: str, on_gpu: bool) -> int:
        """Return the bytes of some kinds of buffers on the GPUs, or beside them."""
        return sum(each.size_bytes for each in self.buffers if each.kind in kinds and each.on_gpu == on_gpu)

    @property
    def shortfall(self) -> str | None:
        """Say what is not on a GPU and should be. Weights prove nothing: the token embedding stays in the host."""
        if self.offloaded is not None and self.wanted is not None and self.offloaded < self.wanted:
            return f"{self.offloaded} of {self.wanted} layers are on the GPU"
        if self.asked is not None or self.offloaded is None:
            return None
        if self.overflowing:
            return f"parts of {self.overflowing} layers are in host memory"
        beside = self.size(KV, STATE, on_gpu=False)
        return f"{format_size(beside)} of its cache are in host memory" if beside else None


def begins(line: str, *, port: int, blob: str) -> bool:
    """Whether a line of the server starts the runner with this port for the weights in this blob."""
    found = _PORT.search(line)
    return 'msg="starting ' in line and blob in line and found is not None and int(found[1]) == port


def account_of(lines: Iterable[str]) -> Account | None:
    """Read one load, from the line that starts its runner on; None where its end, or a part, is not there."""
    reading = _Reading()
    for line in lines:
        if not reading.take(line):
            break
    return reading.account() if reading.is_whole else None


class _Reading:
    """What was read of a load so far."""

    def __init__(self) -> None:
        self._begun = self._started = self._registered = False
        self._port: int | None = None
        self._numbers: dict[str, int] = {}
        self._layers: tuple[int, int] | None = None
        self._overflowing: dict[str, int] = {}
        self._buffers: dict[tuple[str, str, str], ev.BufferSize] = {}
        self._sizes: dict[tuple[str, str, str], int] = {}
        self._devices: dict[str, str] = {}

    @property
    def is_whole(self) -> bool:
        return self._started and self._registered and any(kind == COMPUTE for _, _, kind in self._sizes)

    def take(self, line: str) -> bool:
        """Take a line; False where the load is over."""
        if 'msg="loaded runners"' in line:
            self._registered = True
        elif "overflowing" in line and (over := _OVERFLOWING.search(line)):
            self._overflowing[line.partition(" layers (")[0].rpartition(":")[0]] = int(over[1])
        elif "msg=load " in line and (older := _OLDER.search(line)):
            self._numbers |= {"-np": int(older[1]), "-ub": int(older[2]), "-c": int(older[3])}
        elif 'msg="loading model"' in line:
            self._take_request(slog_fields(line).get("requested", ""))
        return all(self._take_event(event, line) for event in parse_line(line)) and not (
            self._started and self._registered
        )

    def _take_request(self, requested: str) -> None:
        if requested.isascii() and requested.isdigit() and len(requested) < 9:
            self._numbers["-ngl"] = int(requested)

    def _take_event(self, event: ev.LogEvent, line: str) -> bool:
        if isinstance(event, ev.RunnerStarting):
            if self._begun:
                return False
            self._begun, self._port = True, event.port
            self._numbers = {name: int(value) for name, value in _WORD.findall(line)}
        elif isinstance(event, ev.LayersOffloaded):
            self._layers = (event.offloaded, event.total)
        elif isinstance(event, ev.DeviceInUse):
            self._devices[event.device] = event.pci_id
        elif isinstance(event, ev.RunnerStarted):
            self._started = True
        elif isinstance(event, ev.BufferSize):
            self._take_buffer(event)
        return True

    def _take_buffer(self, event: ev.BufferSize) -> None:
        kind = _KINDS[event.kind]
        key = (event.component, event.device, kind)
        before = self._sizes.get(key, 0) if kind in _ADDED and event.component != _LAYOUT else 0
        self._sizes[key], self._buffers[key] = before + event.size_bytes, event

    def account(self) -> Account:
        """Return it. `-c` is the context of all sequences."""
        own = {key: size for key, size in self._sizes.items() if key[0] != _LAYOUT}
        found: dict[tuple[str, str, bool], int] = {}
        for key, size in (own or self._sizes).items():
            place = (key[1], key[2], self._buffers[key].on_gpu)
            found[place] = found.get(place, 0) + size
        offloaded, total = self._layers or (None, None)
        context, parallel = self._numbers.get("-c"), self._numbers.get("-np")
        return Account(
            port=self._port,
            offloaded=offloaded,
            total=total,
            asked=self._numbers.get("-ngl"),
            overflowing=sum(self._overflowing.values()),
            context=context // parallel if context and parallel else None,
            parallel=parallel,
            batch=self._numbers.get("-ub"),
            buffers=tuple(
                Buffer(device=device, kind=kind, size_bytes=size, on_gpu=on_gpu)
                for (device, kind, on_gpu), size in sorted(found.items(), key=lambda each: not each[0][2])
            ),
            devices=tuple(self._devices.items()),
        )
