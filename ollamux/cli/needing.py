"""What a model needs on a seat: read from its files, with the settings of the instance, and by what was measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ollamux.cli.ground import HOST, Ground
from ollamux.domain.calibration import Calibration, MeasuredLoad
from ollamux.domain.errors import NotFoundError, OllamuxError, TimedOutError
from ollamux.domain.plan import ModelNeed
from ollamux.domain.seats import Seat
from ollamux.domain.spec import InstanceSpec, ModelSpec, PinSpec
from ollamux.domain.text import safe_text
from ollamux.ollama.binary import find_ollama, version_text
from ollamux.ollama.memory import Wish
from ollamux.ollama.needs import Model, compute_of_load, need_of, read_model
from ollamux.ollama.version import Era, era_of, parse_version
from ollamux.system.patience import patiently


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line sets in the place of what the configuration says."""

    context: int | None = None
    parallel: int | None = None
    cache_type: str | None = None


STORE_PATIENCE_S = 60.0
"""A slow disk may take its time over some MiB; one that does not answer holds nobody up for ever."""


class Needs:
    """Reads each model once, and works out each need once."""

    def __init__(self, ground: Ground, settings: Settings) -> None:
        self._ground = ground
        self._settings = settings
        self._models: dict[tuple[tuple[str, ...], str], Model] = {}
        self._needs: dict[tuple[str, Wish, str], ModelNeed] = {}
        self._versions: dict[str, str | None] = {}

    def need(self, spec: ModelSpec, seat: Seat) -> ModelNeed:
        """Return what a model needs on a seat, by what was measured there if it was."""
        settings = self._ground.spec_of(seat)
        return self._measured(self.estimate(spec, seat), settings, seat.cards)

    def estimate(self, spec: ModelSpec, seat: Seat) -> ModelNeed:
        """Return the same by what the files say alone."""
        model, wish = self.wish(spec, self._ground.spec_of(seat))
        return replace(self._need_of(model, wish, seat.cards), name=spec.name)

    def wish(self, spec: ModelSpec, settings: InstanceSpec) -> tuple[Model, Wish]:
        """Return a model as it is in the store of an instance, and how it would be loaded there."""
        model = self.read(spec.name, settings)
        return model, model.wish(self.usual_wish(settings), context=self._settings.context or spec.ctx)

    def _need_of(self, model: Model, wish: Wish, cards: Sequence[str]) -> ModelNeed:
        place = HOST if HOST in cards else ""
        key = (model.stored.digest, wish, place)
        if key not in self._needs:
            need = need_of(model, wish)
            self._needs[key] = _on_host(need) if place else need
        return self._needs[key]

    def _measured(self, need: ModelNeed, settings: InstanceSpec, cards: Sequence[str]) -> ModelNeed:
        """Return a need by what was measured on its card; over several cards see `over`."""
        if len(cards) != 1:
            return need
        card = next((card for card in self._ground.cards if card.uuid == cards[0] != HOST), None)
        return self.calibration(settings).calibrated(need, card)

    def over(self, spec: ModelSpec, seat: Seat) -> tuple[ModelNeed, dict[str, int]] | None:
        """Return what a model was measured to take of several cards, and of each; None where it never was."""
        cards = [card for card in self._ground.cards if card.uuid in seat.cards]
        return self.calibration(self._ground.spec_of(seat)).over(self.estimate(spec, seat), cards)

    def calibration(self, settings: InstanceSpec) -> Calibration:
        """Return what loads were measured to take with the ollama of an instance."""

        def compute_of(load: MeasuredLoad) -> int | None:
            models = {model.stored.digest: model for model in self._models.values()}
            model = models.get(load.digest)
            return None if model is None else compute_of_load(model, load, self.usual_wish(settings))

        version = self._version(settings.ollama)
        return Calibration(loads=self._ground.measured, version=version, compute_of=compute_of)

    def usual_wish(self, spec: InstanceSpec) -> Wish:
        settings, version = self._settings, self._version(spec.ollama)
        return Wish(
            context=spec.context_length,
            parallel=settings.parallel or spec.num_parallel or 1,
            cache_type=settings.cache_type or spec.kv_cache_type or "f16",
            flash=spec.flash_attention is not False,
            era=(era_of(parse_version(version)) if version else None) or Era.LLAMA_SERVER,
        )

    def _version(self, program: str) -> str | None:
        """Return the version of an ollama; None where it is not here, or does not tell, and is taken for a new one."""
        if program not in self._versions:
            try:
                self._versions[program] = version_text(find_ollama(program, os.environ))
            except OllamuxError:
                self._versions[program] = None
        return self._versions[program]

    def read(self, name: str, settings: InstanceSpec) -> Model:
        """Return a model as it is in the store of an instance. Raises OllamuxError."""
        stores = self._ground.stores_of(settings)
        key = (tuple(map(str, stores)), name)
        if key in self._models:
            return self._models[key]
        first: OllamuxError | None = None
        for store in stores:
            try:
                self._models[key] = _read_patiently(store, name)
                return self._models[key]
            except NotFoundError as error:
                first = first or error
        raise first or NotFoundError(f"there is no store to look for {name} in")

    def of_pin(self, pin: PinSpec, seat: Seat) -> ModelNeed:
        """Return what a pin takes on its instance. Raises OllamuxError where its model cannot be read."""
        settings = self._ground.spec_of(seat)
        model = self.read(pin.name, settings)
        usual = self.usual_wish(settings)
        if pin.options.num_gpu is not None or pin.options.num_batch is not None:
            usual = replace(usual, layers=pin.options.num_gpu, batch=pin.options.num_batch)
        need = self._need_of(model, model.wish(usual, context=pin.num_ctx), seat.cards)
        return self._measured(need, settings, seat.cards)


def _read_patiently(store: Path, name: str) -> Model:
    try:
        return patiently(f"the store {store}", lambda: read_model(store, name), limit_s=STORE_PATIENCE_S)
    except TimeoutError:
        raise TimedOutError(
            f"the store {safe_text(str(store))} did not answer within {STORE_PATIENCE_S:g} s",
            hint="a disk or a network that hangs: ls in it would wait, too",
        ) from None


def _on_host(need: ModelNeed) -> ModelNeed:
    """Return what a model needs where the CPU computes: what would stay in host memory is there, too; no driver is."""
    weights = need.weights_bytes + need.host_bytes
    shrunk = need.total_bytes - need.least_bytes
    found = replace(need, weights_bytes=weights, overhead_bytes=0, host_bytes=0, predicted_bytes=0)
    return replace(found, least_bytes=found.total_bytes - shrunk)
