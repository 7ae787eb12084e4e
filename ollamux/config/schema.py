"""The shape of the file: every table and key with its rule, default and words.

Fields are called as in the specification and carry the TOML key as alias, so that what is set in the file can be
handed to the specification as it is. Only this module and `typed` know pydantic.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ollamux.config import preloads, rules, words
from ollamux.config.keys import default_of, key_of, written
from ollamux.config.typed import (
    VERSION,
    By,
    Count,
    Env,
    Flag,
    Gpus,
    Notify,
    OnFaultWord,
    Port,
    Prefer,
    Preload,
    Replicas,
    Time,
)
from ollamux.domain.spec import (
    CanarySpec,
    FleetSpec,
    HealthSpec,
    InstanceSpec,
    ModelSpec,
    OnDeath,
    OnFault,
    PlacementMode,
    Pull,
    RestartPolicy,
    RestartSpec,
    SupervisorSpec,
)

MOST_INSTANCES = 256
MOST_MODELS = 256
SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _key(spec: type, field: str, says: str) -> Any:
    """A key that may be left out: its default comes from the specification."""
    default = default_of(spec, field)
    extra = {} if default is None else {"default": written(field, default)}
    name = key_of(field)
    return Field(default=default, alias=name, title=name, description=says, json_schema_extra={**extra, "title": name})


class HealthTable(_Table):
    """How an instance is checked."""

    interval_s: Time = _key(HealthSpec, "interval_s", "Time between two checks; an hour is as good as off.")
    timeout_s: Time = _key(HealthSpec, "timeout_s", "An answer that takes longer counts as a miss.")
    failures: Annotated[int, By(rules.integer(1, 100))] = _key(
        HealthSpec, "failures", "Misses in a row that make an instance UNHEALTHY."
    )
    unhealthy_timeout_s: Annotated[float, By(rules.duration(zero="the remedy at once"))] = _key(
        HealthSpec, "unhealthy_timeout_s", "UNHEALTHY for so long, then it is restarted."
    )
    start_timeout_s: Time = _key(HealthSpec, "start_timeout_s", "Not READY after so long, then it is started again.")


class RestartTable(_Table):
    """How an instance comes back."""

    policy: Annotated[RestartPolicy, By(rules.choice(RestartPolicy))] = _key(
        RestartSpec, "policy", 'Restart one that ended by itself: "always", "on-failure", "never".'
    )
    first_s: Annotated[float, By(rules.duration(zero="at once"))] = _key(
        RestartSpec, "first_s", "Delay before the first restart."
    )
    base_s: Time = _key(RestartSpec, "base_s", "Delay before the second restart; it grows from there.")
    factor: Annotated[float, By(rules.number(1, 100))] = _key(
        RestartSpec, "factor", "Each further restart waits so many times longer."
    )
    cap_s: Time = _key(RestartSpec, "cap_s", "No restart waits longer than this.")
    failure_limit: Annotated[int, By(rules.integer(0, 1000))] = _key(
        RestartSpec, "failure_limit", "Short runs in a row that make it FAILED; 0 never gives up."
    )
    stable_for_s: Annotated[float, By(rules.duration(zero="as soon as it is READY"))] = _key(
        RestartSpec, "stable_for_s", "READY for so long: earlier failures are forgotten."
    )
    stop_timeout_s: Annotated[float, By(rules.duration(zero="killed at once"))] = _key(
        RestartSpec, "stop_timeout_s", "Time to end by itself before it is killed."
    )
    retry_failed_s: Time = _key(RestartSpec, "retry_failed_s", "A FAILED instance is tried again at this pace.")


class OnTable(_Table):
    """What to do about a proven device fault: tell, restart (once per incident) or stop."""

    cpu_fallback: OnFaultWord = _key(OnFault, "cpu_fallback", "It computes on the CPU, though it has a GPU.")
    wrong_gpu: OnFaultWord = _key(OnFault, "wrong_gpu", "It runs on another GPU than it should.")
    spill: OnFaultWord = _key(OnFault, "spill", "Part of a model is in host memory.")
    gpu_lost: OnFaultWord = _key(OnFault, "gpu_lost", "Its GPU has fallen off the bus; a restart waits for it.")
    slowed: OnFaultWord = _key(OnFault, "slowed", "Its GPU is too hot, or lacks power, and slows itself down.")
    crowded: OnFaultWord = _key(OnFault, "crowded", "Strangers hold a tenth or more of its GPU's memory.")


class CanaryTable(_Table):
    """Ask a loaded model for one token now and then, to find what hangs behind an API that answers."""

    models: tuple[Annotated[str, By(words.MODEL)], ...] = _key(
        CanarySpec, "models", "Models that may be asked, each only while it is loaded anyway."
    )
    interval_s: Time = _key(CanarySpec, "interval_s", "Time between two questions to one instance.")
    timeout_s: Time = _key(CanarySpec, "timeout_s", "No token after so long counts as a miss.")
    failures: Annotated[int, By(rules.integer(1, 100))] = _key(
        CanarySpec, "failures", "Misses in a row that make an instance UNHEALTHY."
    )
    per_hour: Annotated[int, By(rules.integer(1, 3600))] = _key(
        CanarySpec, "per_hour", "An instance is asked no more often than this in any hour."
    )


class DefaultsTable(_Table):
    """What holds for every instance that does not say otherwise."""

    enabled: Flag = _key(InstanceSpec, "enabled", "false keeps an instance down for good.")
    share_gpu: Flag = _key(InstanceSpec, "share_gpu", "Its GPUs may be in other instances that say true, too.")
    ollama: Annotated[str, By(words.PROGRAM)] = _key(
        InstanceSpec, "ollama", "The program: a name on PATH, or its path."
    )
    host: Annotated[str, By(words.HOST)] = _key(
        InstanceSpec, "host", "Address to listen on. Beware of 0.0.0.0: ollama asks no password."
    )
    allow_lan: Flag = _key(InstanceSpec, "allow_lan", "No warning about an address that others can reach.")
    store: Annotated[str, By(words.FOLDER)] | None = _key(InstanceSpec, "store", "Folder of the models.")
    context_length: Annotated[int, By(rules.integer(256, 16_777_216))] = _key(
        InstanceSpec, "context_length", "Tokens of context where a request asks for none."
    )
    num_parallel: Count | None = _key(InstanceSpec, "num_parallel", "Requests that a model serves at once.")
    max_loaded_models: Count | None = _key(InstanceSpec, "max_loaded_models", "Models in memory at once.")
    keep_alive_s: Annotated[float, By(words.KEEP_ALIVE)] | None = _key(
        InstanceSpec, "keep_alive_s", "An idle model stays loaded for so long."
    )
    kv_cache_type: Annotated[str, By(rules.one_of("f16", "q8_0", "q4_0"))] | None = _key(
        InstanceSpec, "kv_cache_type", 'Context in memory: "f16", "q8_0" is half of it, "q4_0" a quarter.'
    )
    flash_attention: Flag | None = _key(
        InstanceSpec, "flash_attention", "Forced on or off; a q8_0 or q4_0 cache needs it."
    )
    headroom_bytes: Annotated[int, By(rules.size(1024**2, zero="none"))] | None = _key(
        InstanceSpec, "headroom_bytes", "Memory kept free on each GPU."
    )
    cache_ram_bytes: Annotated[int, By(rules.size(1024**2, zero="no cache"))] = _key(
        InstanceSpec, "cache_ram_bytes", "Host memory that each runner may use to cache prompts."
    )
    preload: Preload = _key(InstanceSpec, "preload", "Models to load at start and to keep loaded.")
    pull: Annotated[Pull, By(rules.choice(Pull))] = _key(
        InstanceSpec, "pull", 'Models to keep that are not in the store: "missing" fetches them.'
    )
    env: Env = Field(
        default_factory=dict,
        title="env",
        description="Further variables for ollama; defaults and instance are merged.",
        json_schema_extra={"title": "env", "default": {}},
    )
    health: HealthTable = Field(default_factory=HealthTable)
    restart: RestartTable = Field(default_factory=RestartTable)
    on: OnTable = Field(default_factory=OnTable)
    canary: CanaryTable = Field(default_factory=CanaryTable)


class InstanceTable(DefaultsTable):
    """One supervised `ollama serve`; its name is the name of the table."""

    gpus: Gpus = Field(
        title="gpus", description='Its GPUs: a list of references, [] for CPU only, or "any" for no pinning.'
    )
    port: Port = Field(title="port", description="Port to listen on.")


class SupervisorTable(_Table):
    """What concerns the whole fleet."""

    max_parallel_starts: Annotated[int, By(rules.integer(0, 256))] = _key(
        SupervisorSpec, "max_parallel_starts", "Instances that start at the same time; 0 starts all at once."
    )
    on_death: Annotated[OnDeath, By(rules.choice(OnDeath))] = _key(
        SupervisorSpec, "on_death", 'When the supervisor is killed: "keep" the instances or "stop" them.'
    )
    log_max_bytes: Annotated[int, By(rules.size(4096))] = _key(
        SupervisorSpec, "log_max_bytes", "The log of an instance is rotated at this size."
    )
    log_keep: Annotated[int, By(rules.integer(0, 100))] = _key(
        SupervisorSpec, "log_keep", "Rotated logs kept of each instance."
    )
    log_total_max_bytes: Annotated[int, By(rules.size(4096))] = _key(
        SupervisorSpec, "log_total_max_bytes", "Room for all logs together; the oldest rotated ones go first."
    )
    notify: Notify = _key(
        SupervisorSpec,
        "notify",
        "Program run when something fails or recovers, the event on its input.",
    )


Instances = Annotated[
    dict[str, InstanceTable],
    Field(
        json_schema_extra={
            "minProperties": 1,
            "maxProperties": MOST_INSTANCES,
            "propertyNames": {"pattern": words.NAME_PATTERN, "not": {"enum": list(words.RESERVED_NAMES)}},
        }
    ),
]


class ModelTable(_Table):
    """A model that is wanted, wherever it fits; its name is the name of the table."""

    ctx: Annotated[int, By(preloads.CONTEXT)] | None = _key(
        ModelSpec, "ctx", "Tokens of context; its Modelfile, then context_length decides where it is not set."
    )
    replicas: Replicas = _key(ModelSpec, "replicas", 'On so many cards, each another one; "all": wherever it fits.')
    prefer: Prefer = _key(ModelSpec, "prefer", "Instances that it is to go to if it fits there.")


Models = Annotated[
    dict[Annotated[str, By(words.MODEL)], ModelTable],
    Field(json_schema_extra={"maxProperties": MOST_MODELS, "propertyNames": dict(words.MODEL.schema)}),
]


class Document(_Table):
    """The configuration of ollamux: which GPUs, which ports, and how the instances are kept running."""

    version: Annotated[int, By(VERSION)] = Field(title="version", description="Version of this format.")
    placement: Annotated[PlacementMode, By(rules.choice(PlacementMode))] = _key(
        FleetSpec, "placement", 'Which instance keeps which of the models: "auto" decides by the memory that they need.'
    )
    supervisor: SupervisorTable = Field(default_factory=SupervisorTable)
    defaults: DefaultsTable = Field(default_factory=DefaultsTable)
    instances: Instances = Field(title="instances", description="One table for each instance, [instances.NAME].")
    models: Models = Field(
        default_factory=dict, title="models", description='Models that are wanted, each a table [models."NAME"].'
    )


class _Plain(GenerateJsonSchema):
    """TOML has no null: a key is there or it is not."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def validate(data: dict[str, Any]) -> tuple[Document | None, list[Any]]:
    """Return the document, or everything that pydantic has against it."""
    try:
        return Document.model_validate(data), []
    except ValidationError as error:
        return None, list(error.errors(include_url=False))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the configuration file."""
    schema = Document.model_json_schema(schema_generator=_Plain)
    for table in (schema, *schema["$defs"].values()):
        for key in table.get("properties", {}).values():
            if "default" in key and key["default"] is None:
                del key["default"]
    return {"$schema": SCHEMA_DIALECT, **schema, "title": "ollamux configuration"}
