"""Write an inventory as JSON and read it back: the words between the helper process and its clients. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from ollamux.gpu.model import Gpu, GpuProcess, Inventory, Link

SCHEMA = "ollamux.gpus/1"


def inventory_to_json(inventory: Inventory) -> str:
    """Write an inventory as one line."""
    plain = asdict(inventory)
    if inventory.links is None:
        del plain["links"]
    return json.dumps({"schema": SCHEMA, **plain}, separators=(",", ":"))


def inventory_from_json(text: str | bytes) -> Inventory:
    """Read an inventory back; a ValueError where the text is none."""
    try:
        plain = json.loads(text)
        if plain["schema"] != SCHEMA:
            raise ValueError(f"unknown schema {plain['schema']!r}")
        gpus = tuple(_gpu(item) for item in plain["gpus"])
        links = plain.get("links")
        whole = {
            "gpus": gpus,
            "unsupported": tuple(plain.get("unsupported", ())),
            "links": None if links is None else tuple(Link(**_known(Link, item)) for item in links),
        }
        return Inventory(**{**_known(Inventory, plain), **whole})
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not an inventory: {error}") from error


def _gpu(item: dict[str, Any]) -> Gpu:
    processes = tuple(GpuProcess(**_known(GpuProcess, process)) for process in item["processes"])
    reasons = item.get("throttle_reasons")
    whole = {"processes": processes, "throttle_reasons": None if reasons is None else tuple(reasons)}
    return Gpu(**{**_known(Gpu, item), **whole})


def _known(cls: Any, item: dict[str, Any]) -> dict[str, Any]:
    return {field.name: item[field.name] for field in fields(cls) if field.name in item}
