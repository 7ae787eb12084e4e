"""`ollamux plan`: read the heads of models in the store, and show what they need and on which cards they fit."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ollamux.cli import screen
from ollamux.cli.apply import Manner, apply, must_be_allowed, must_be_known, placement_of, tell_why
from ollamux.cli.ground import Ground, is_meant, survey
from ollamux.cli.lifecycle import tell
from ollamux.cli.needing import Settings
from ollamux.cli.planning import Planner
from ollamux.cli.target import question
from ollamux.domain.errors import Exit, OllamuxError, UsageError
from ollamux.domain.placed import Placement
from ollamux.domain.plan import Plan, as_json
from ollamux.domain.spec import ModelSpec
from ollamux.domain.text import same_model
from ollamux.ollama.gguf_types import CACHE_TYPES

_LARGEST_CONTEXT = 1 << 24
_MOST_SEQUENCES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The words of the command. None means what the configuration says; so does no model."""

    models: tuple[str, ...]
    context: int | None
    parallel: int | None
    cache_type: str | None
    gpus: tuple[str, ...]
    config: str | None
    simulated: bool


def plan(asked: Asked, *, output: str) -> int:
    """Show what models need; ends with 6 where a card is there and one of them has none."""
    _check(asked, output)
    _ground, _, found = _planned(asked, only_instances=not asked.models)
    if output == "json":
        _write(as_json(found))
    else:
        draw(found)
    return int(Exit.DEGRADED if found.unplaced else Exit.OK)


def plan_and_apply(asked: Asked, manner: Manner, *, output: str) -> int:
    """Show the plan and put it in force."""
    _check(asked, output)
    for option, value in (("--kv", asked.cache_type), ("--parallel", asked.parallel)):
        if value is not None:
            key = "kv_cache_type" if option == "--kv" else "num_parallel"
            raise UsageError(f"{option}: a server has it from its start", hint=f"set {key} in the configuration")
    if manner.unattended:
        return _unattended(asked, manner)
    question({"cmd": "status"}, simulated=is_meant(asked.config, simulated=asked.simulated))
    ground, planner, found = _planned(asked, only_instances=True, none_is_fine=True)
    must_be_allowed(bool(asked.models), ground)
    must_be_known(ground)
    if output == "table" and not manner.quiet and (found.models or found.unplaced):
        draw(found)
        screen.write("\n")
    outcomes = apply(placement_of(found, ground, asked.context), ground, manner, planner.missing)
    if output == "json":
        _write({**as_json(found), "applied": outcomes})
    else:
        tell(outcomes, quiet=manner.quiet)
        if not (found.models or found.unplaced or manner.quiet):
            screen.say("No model is wanted any more: what was placed is let go.\n")
        elif not manner.wait and not manner.quiet:
            screen.say("The supervisor has it; ollamux models ls shows how far it is.\n")
    codes = [int(outcome["exit"]) for outcome in outcomes]
    return max(int(Exit.DEGRADED if found.unplaced else Exit.OK), *codes, 0)


def _unattended(asked: Asked, manner: Manner) -> int:
    """Do it for the supervisor, which nobody watches: what goes wrong is told to it."""
    try:
        ground, planner, found = _planned(asked, only_instances=True, none_is_fine=True)
        must_be_known(ground)
        apply(placement_of(found, ground, None), ground, manner, planner.missing)
    except OllamuxError as error:
        tell_why(f"{error.message}{f' ({error.hint})' if error.hint else ''}", simulated=asked.simulated)
        raise
    return int(Exit.DEGRADED if found.unplaced else Exit.OK)


def draw(found: Plan) -> None:
    """Draw a plan on the terminal."""
    from ollamux.render.pen import Pen
    from ollamux.render.plan import draw_plan

    env = os.environ
    pen = Pen(width=screen.width(env), color=screen.color(env), unicode=screen.unicode(env))
    screen.write(draw_plan(pen, found))


def _write(plain: dict[str, Any]) -> None:
    screen.write(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")


def _planned(asked: Asked, *, only_instances: bool, none_is_fine: bool = False) -> tuple[Ground, Planner, Plan]:
    ground = survey(asked.config, asked.gpus, simulated=asked.simulated, only_instances=only_instances)
    models = wanted_of(asked.models, ground, none_is_fine=none_is_fine and ground.standing != Placement())
    settings = Settings(context=asked.context, parallel=asked.parallel, cache_type=asked.cache_type)
    planner = Planner(ground, settings)
    return ground, planner, planner.plan(models, lenient=not asked.models)


def wanted_of(names: Sequence[str], ground: Ground, *, none_is_fine: bool = False) -> tuple[ModelSpec, ...]:
    """Return the models to plan for: those named, else those of the configuration.

    None is fine where something was placed before: that is then to be let go.
    """
    if names:
        known = ground.fleet.models
        return tuple(
            next((spec for spec in known if same_model(spec.name, name)), ModelSpec(name=name))
            for name in dict.fromkeys(names)
        )
    if not ground.fleet.models and not none_is_fine:
        raise UsageError(
            "no model is named, and the configuration wants none",
            hint='name them, as ollamux plan qwen3:8b, or write tables [models."qwen3:8b"] into the configuration',
        )
    return ground.fleet.models


def _check(asked: Asked, output: str) -> None:
    if output not in ("table", "json"):
        raise UsageError(f"-o: there is no form {output!r}", hint="there are: table, json")
    if asked.cache_type is not None and asked.cache_type not in CACHE_TYPES:
        raise UsageError(f"--kv: there is no type {asked.cache_type!r}", hint=f"there are: {', '.join(CACHE_TYPES)}")
    for option, value, most in (
        ("--ctx", asked.context, _LARGEST_CONTEXT),
        ("--parallel", asked.parallel, _MOST_SEQUENCES),
    ):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{option}: {value} is not between 1 and {most}")
