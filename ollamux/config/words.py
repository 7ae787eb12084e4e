"""The rules for text values: addresses, paths, model names, variables, command lines. Knows no key."""

from __future__ import annotations

import ipaddress
import re

from ollamux.config.managed import MANAGED, OWN_PREFIX, refusal
from ollamux.config.rules import Rule, Wrong, duration, kind

NAME_PATTERN = "^[a-z0-9][a-z0-9_-]{0,31}$"
RESERVED_NAMES = ("all", "supervisor")

_MODEL = (
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?/)?"  # a registry
    r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/){0,2}"  # whose model it is
    r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?"  # model:tag
)
_VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
_LONGEST_VALUE = 128 * 1024 - 1  # what Linux lets one variable or argument hold
_NO_NUL = "^[^\\u0000]*$"


def plain(value: object) -> str:
    """Return text that an environment, a path or a command line can hold."""
    if not isinstance(value, str):
        raise Wrong(f"must be text in quotes, not {kind(value)}")
    if "\0" in value:
        raise Wrong("must not hold a NUL character")
    if len(value.encode()) > _LONGEST_VALUE:
        raise Wrong("is longer than the 128 KiB that Linux allows")
    return value


def _host(value: object) -> str:
    text = plain(value)
    if text.lower() == "localhost":
        raise Wrong("must be an address, not a name", 'write "127.0.0.1"')
    if text == "*":
        raise Wrong("must be an address", 'for all addresses write "0.0.0.0"')
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(inner)
    except ValueError:
        raise _not_an_address(text) from None
    if "%" in inner:
        raise Wrong("must be an address without a zone", "ollama cannot listen on one with %")
    if address.is_multicast or str(address) == "255.255.255.255":
        raise Wrong("must be an address of this machine", '"127.0.0.1" is reached from here only')
    return str(address)


def _not_an_address(text: str) -> Wrong:
    if "://" in text:
        return Wrong("must be an address alone, without http:// and without port", "the port has its own key, port")
    bare, colon, port = text.rpartition(":")
    if colon and port.isdigit() and bare.count(":") == 0:
        return Wrong("must be an address alone, without port", f"the port has its own key: port = {port[:6]}")
    return Wrong(
        "must be an IPv4 or IPv6 address in digits", 'as "127.0.0.1", "0.0.0.0" or "::1"; names are not resolved'
    )


HOST = Rule(
    check=_host,
    schema={"type": "string", "pattern": r"^(\[?[0-9a-fA-F:.]*:[0-9a-fA-F:.]*\]?|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+)$"},
    says="IPv4 or IPv6 address",
)


def _folder(value: object) -> str:
    text = plain(value)
    if not text.startswith(("/", "~")):
        if text.startswith("$"):
            raise Wrong("variables are not expanded here", 'begin with "~/" for the home folder, or with "/"')
        raise Wrong('must begin with "/" or "~"', "a relative path would mean another folder under cron")
    return text


FOLDER = Rule(
    check=_folder, schema={"type": "string", "pattern": "^[/~][^\\u0000]*$"}, says='path that begins with "/" or "~"'
)


def _program(value: object) -> str:
    text = plain(value)
    if not text:
        raise Wrong("must not be empty", '"ollama" is looked up on PATH')
    if "/" in text and not text.startswith(("/", "~/")):
        raise Wrong('must be a name on PATH, or a path that begins with "/" or "~/"')
    if text != text.strip() or text.endswith("/"):
        raise Wrong("must be the name or path of a program, without arguments")
    return text


PROGRAM = Rule(
    check=_program,
    schema={"type": "string", "pattern": "^(~?/[^\\u0000]*[^\\u0000/]|[^\\u0000/]+)$"},
    says="name on PATH or absolute path",
)


def _model_name(value: object) -> str:
    text = plain(value)
    if not re.fullmatch(_MODEL, text) or len(text) > 350:
        raise Wrong(
            "is not the name of a model", 'as "qwen3:8b" or "hf.co/user/model-GGUF:Q4_K_M"; ollama list shows yours'
        )
    return text


MODEL = Rule(check=_model_name, schema={"type": "string", "pattern": f"^{_MODEL}$"}, says="model name")


def _variable(value: object) -> str:
    name = plain(value)
    if not re.fullmatch(_VARIABLE, name):
        raise Wrong("is not the name of a variable", "letters, digits and _, not beginning with a digit")
    instead = refusal(name)
    if instead is not None:
        raise Wrong("is managed by ollamux", instead)
    return name


VARIABLE = Rule(check=_variable, schema={"type": "string"}, says="name of a variable")


def _content(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong(f'must be text in quotes, as "1", not {kind(value)}')
    return plain(value)


CONTENT = Rule(check=_content, schema={"type": "string", "pattern": _NO_NUL}, says="text")
ENV_SCHEMA = {
    "type": "object",
    "propertyNames": {
        "pattern": f"^{_VARIABLE}$",
        "not": {"anyOf": [{"enum": sorted(MANAGED)}, {"pattern": f"^{OWN_PREFIX}"}]},
    },
    "additionalProperties": dict(CONTENT.schema),
}

ARGUMENT = Rule(check=plain, schema={"type": "string", "pattern": _NO_NUL}, says="text")

_AFTER_IDLE = duration(zero="unloads at once")


def _keep_alive(value: object) -> float:
    if isinstance(value, int) and not isinstance(value, bool):
        if value in (-1, 0):
            return float(value)
        raise Wrong('must be text such as "30m", -1 for ever, or 0', f'write "{value}s"' if value > 0 else "write -1")
    if isinstance(value, str) and value.startswith("-"):
        raise Wrong("must not be negative", "for ever is -1, without quotes")
    seconds: float = _AFTER_IDLE.check(value)
    return seconds


KEEP_ALIVE = Rule(
    check=_keep_alive,
    schema={"anyOf": [dict(_AFTER_IDLE.schema), {"type": "integer", "enum": [-1, 0]}]},
    says=f"-1 for ever, 0, or a {_AFTER_IDLE.says}",
)
