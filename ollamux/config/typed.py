"""The values of the file as pydantic types: each rule of ours is the whole validation and JSON Schema of a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, WrapValidator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from ollamux.config import preloads, rules, words
from ollamux.config.refs import GPU_RULE, GPUS_SCHEMA, gpu_list, parse_ref
from ollamux.config.rules import Rule, Wrong
from ollamux.domain.spec import EVERY_CARD, FaultPolicy, GpuRef, PinSpec


@dataclass(frozen=True, slots=True, eq=False)
class By:
    """Lets one of our rules be the whole validation and the whole JSON Schema of a value."""

    rule: Rule

    def __get_pydantic_core_schema__(self, source: Any, resolve: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.rule.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, resolve: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**self.rule.schema, "$comment": self.rule.says}


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Replaces the JSON Schema that pydantic would draw."""

    schema: dict[str, Any]

    def __get_pydantic_json_schema__(self, schema: CoreSchema, resolve: GetJsonSchemaHandler) -> JsonSchemaValue:
        return dict(self.schema)


Gpu = Annotated[GpuRef, By(Rule(check=parse_ref, schema={}, says=GPU_RULE))]
Gpus = Annotated[tuple[Gpu, ...], WrapValidator(gpu_list), Drawn(GPUS_SCHEMA)]
Env = Annotated[
    dict[Annotated[str, By(words.VARIABLE)], Annotated[str, By(words.CONTENT)]],
    Drawn({**words.ENV_SCHEMA, "$comment": "table of variables, each value in quotes"}),
]
Preload = Annotated[
    tuple[Annotated[PinSpec, By(preloads.ENTRY)], ...], WrapValidator(preloads.pins), Drawn(preloads.LIST_SCHEMA)
]
Flag = Annotated[bool, By(rules.BOOLEAN)]
Time = Annotated[float, By(rules.duration())]
Port = Annotated[int, By(rules.integer(1, 65535))]
Count = Annotated[int, By(rules.integer(1, 256))]
OnFaultWord = Annotated[FaultPolicy, By(rules.choice(FaultPolicy))]


def _notify(value: object, each: Any) -> Any:
    argv: tuple[str, ...] = each(value)
    if argv and not argv[0].startswith("/"):
        raise Wrong(
            'the program must be an absolute path, as "/usr/local/bin/tell-me"', "arguments are further entries"
        )
    return argv


Notify = Annotated[
    tuple[Annotated[str, By(words.ARGUMENT)], ...],
    WrapValidator(_notify),
    Drawn(
        {
            "$comment": "list: absolute path, then arguments",
            "type": "array",
            "items": dict(words.ARGUMENT.schema),
            "prefixItems": [{"type": "string", "pattern": "^/"}],
        }
    ),
]


def _version(value: object) -> int:
    if isinstance(value, bool) or value != 1 or not isinstance(value, int):
        newer = isinstance(value, int) and not isinstance(value, bool) and value > 1
        hint = "the file was written for a newer ollamux" if newer else "write version = 1"
        raise Wrong("must be 1, the only version of this format", hint)
    return 1


VERSION = Rule(check=_version, schema={"type": "integer", "const": 1}, says="1")


def _replicas(value: object) -> int:
    if value == "all":
        return EVERY_CARD
    if isinstance(value, str):
        raise Wrong('must be a whole number or "all"', '"all" is one on each card that can hold it')
    number: int = _REPLICAS.check(value)
    return number


_REPLICAS = rules.integer(1, 256)
Replicas = Annotated[
    int,
    By(
        Rule(
            check=_replicas,
            schema={"anyOf": [dict(_REPLICAS.schema), {"const": "all"}]},
            says=f'{_REPLICAS.says}, or "all"',
        )
    ),
]


def _prefer(value: object, each: Any) -> Any:
    return each([value] if isinstance(value, str) else value)


Prefer = Annotated[
    tuple[Annotated[str, By(words.ARGUMENT)], ...],
    WrapValidator(_prefer),
    Drawn(
        {
            "$comment": "name of an instance, or list of names",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        }
    ),
]
