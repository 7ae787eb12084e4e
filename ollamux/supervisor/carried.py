"""What one supervisor hands to the program that takes its place in the same process: values, and how they are written.

Only what cannot be found again is carried. Descriptors are carried by number: the process stays the same, and what it
has open with it. A version that does not know a field leaves it out; one that knows a further field takes its default.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from ollamux.domain.canary import Canary
from ollamux.domain.health import Health
from ollamux.domain.instance import Instance
from ollamux.domain.pins import PinState
from ollamux.domain.snapshot import CanaryView
from ollamux.domain.spec import PinSpec
from ollamux.domain.tally import Tally
from ollamux.gpu.freed import Claim
from ollamux.ollama.api import LoadedModel
from ollamux.ollama.judge import Verdict
from ollamux.supervisor.accounts import SeenLoad

SCHEMA = 1
"""Grows when what is written is not understood by a version that reads the number before."""
_LARGEST = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedCanary:
    """What the canary knows of an instance; see `CanaryWatch`."""

    state: Canary
    last: CanaryView | None = None
    accused: tuple[str, int, float] | None = None
    passed: tuple[str, int, float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Debt:
    """What an incarnation that has ended still owes its cards, and what was said of it."""

    gen: int
    claims: tuple[Claim, ...]
    ended_at: float
    resource: str
    why: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedVram:
    """Who of an instance holds memory of its cards, what was in use of them before it, and what is not back yet."""

    pids: tuple[int, ...] = ()
    before: dict[str, int | None] = field(default_factory=dict)
    debt: Debt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedUnit:
    """One instance. `leader` is the descriptor that means its process, whatever becomes of the pid meanwhile."""

    name: str
    state: Instance
    leader: int | None = None
    leader_ended: bool = False
    since_wall: float = 0.0
    spawned_at: float = 0.0
    last_exit_wall: float | None = None
    health: Health = field(default_factory=Health)
    log_start: int = 0
    read_to: int | None = None
    server_version: str | None = None
    verdict: Verdict | None = None
    seen_loads: dict[str, SeenLoad] = field(default_factory=dict)
    models: tuple[LoadedModel, ...] = ()
    models_at: float | None = None
    runners: dict[int, str] = field(default_factory=dict)
    gone_runners: tuple[str, ...] = ()
    promises: dict[str, tuple[float | None, float]] = field(default_factory=dict)
    port: int | None = None
    fingerprint: str | None = None
    tally: Tally = field(default_factory=Tally)
    served_at: float | None = None
    canary: CarriedCanary | None = None
    vram: CarriedVram | None = None
    gpus: tuple[str, ...] = ()
    degraded: dict[str, str] = field(default_factory=dict)
    incidents: tuple[str, ...] = ()
    asked_incidents: tuple[str, ...] = ()
    hand_pins: tuple[PinSpec, ...] = ()
    pin_states: dict[str, PinState] = field(default_factory=dict)
    loads: tuple[PinSpec, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedClient:
    """One connection of the control socket: what came, what is still to be sent, and what it waits for."""

    fd: int
    asked: bool = False
    received: str = ""
    unsent: str = ""
    waits: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """The listening control socket."""

    fd: int
    path: str
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Everything. `source` are the bytes of the configuration in force, each byte as one character.

    `prepared` is what the new version itself said when it was asked whether it can take over, for its own use.
    """

    schema: int
    version: str
    config: str | None
    source: str
    simulated: bool = False
    hang_up: bool = True
    plain_output: int | None = None
    plain_unwritten: str = ""
    unicode: bool = True
    owner: str | None = None
    viewers: tuple[int, ...] = ()
    lock: int = -1
    listener: Listener | None = None
    clients: tuple[CarriedClient, ...] = ()
    units: tuple[CarriedUnit, ...] = ()
    leftovers: tuple[int, ...] = ()
    inventory: str | None = None
    sampled_at: float | None = None
    versions: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    warned: tuple[str, ...] = ()
    told: dict[str, str] = field(default_factory=dict)
    started_wall: float | None = None
    started: float | None = None
    config_changed: bool = False
    prepared: dict[str, Any] | None = None

    def descriptors(self) -> list[int]:
        """Return the descriptors that must outlive the exec."""
        found = [self.lock, *(client.fd for client in self.clients)]
        found += [unit.leader for unit in self.units if unit.leader is not None]
        found += [] if self.listener is None else [self.listener.fd]
        found += [] if self.plain_output is None else [self.plain_output]
        return [fd for fd in found if fd >= 0]


def write(handover: Handover) -> int:
    """Return the descriptor of a nameless file that holds a hand-over."""
    fd = os.memfd_create("ollamux-handover", os.MFD_CLOEXEC)
    view = memoryview(json.dumps(_plain(handover)).encode())
    while view:
        view = view[os.write(fd, view) :]
    return fd


def read(fd: int) -> Handover:
    """Read a hand-over. Raises ValueError, with the reason in plain words, where this version cannot."""
    data = os.pread(fd, min(os.fstat(fd).st_size, _LARGEST), 0)
    try:
        plain = json.loads(data)
        if plain["schema"] != SCHEMA:
            raise ValueError(f"the hand-over has schema {plain['schema']}, this version reads {SCHEMA}")
        found: Handover = _decode(Handover, plain)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"the hand-over is not understood: {type(error).__name__} {error}") from error
    return found


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list | frozenset):
        return [_plain(each) for each in value]
    return value.value if isinstance(value, Enum) else value


def _decode(wanted: Any, plain: dict[str, Any]) -> Any:
    hints = _hints(wanted)
    found = {name: _value(hints[name], plain[name]) for name in hints if name in plain}
    missing = [each.name for each in fields(wanted) if each.name not in found and not _has_default(each)]
    if missing:
        raise ValueError(f"the hand-over lacks {', '.join(missing)} of {wanted.__name__}")
    return wanted(**found)


def _has_default(each: Any) -> bool:
    return each.default is not MISSING or each.default_factory is not MISSING


@cache
def _hints(wanted: Any) -> dict[str, Any]:
    return get_type_hints(wanted)


def _value(hint: Any, plain: Any) -> Any:
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return None if plain is None else _value(next(each for each in inner if each is not types.NoneType), plain)
    if kind is tuple:
        each = inner[:1] * len(plain) if inner[1:] == (Ellipsis,) else inner
        return tuple(_value(one, item) for one, item in zip(each, plain, strict=True))
    if kind is frozenset:
        return frozenset(_value(inner[0], item) for item in plain)
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return {inner[0](key): _value(inner[1], each) for key, each in plain.items()}
    if is_dataclass(hint):
        return _decode(hint, plain)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(plain)
    if hint is float and type(plain) is int:
        return float(plain)
    if hint is not Any and type(plain) is not hint:
        raise ValueError(f"the hand-over has a {type(plain).__name__} where a {hint.__name__} belongs")
    return plain
