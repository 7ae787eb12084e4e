"""`ollamux tune`: borrow an instance, search with real loads, say what was found, write it down, and give it back."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ollamux import __version__
from ollamux.cli import screen
from ollamux.cli.models import model_name
from ollamux.cli.tune_create import create, load_again
from ollamux.cli.tune_instance import Instance, look
from ollamux.cli.tune_lease import Lease, borrow
from ollamux.cli.tune_step import Kit, measure, options_of
from ollamux.cli.tune_task import Wanted, model_to_tune, read_cards, task_of
from ollamux.cli.tune_trial import Place
from ollamux.cli.words import seconds
from ollamux.domain.errors import Exit, OllamuxError, RefusedError, UsageError
from ollamux.domain.text import safe_text
from ollamux.domain.tune import Search, Tuned, What, as_json
from ollamux.ollama.needs import Model
from ollamux.ollama.store import find_manifest
from ollamux.ollama.trial import modelfile
from ollamux.render.pen import Pen
from ollamux.render.tune import draw_tuned, progress, summary
from ollamux.system.clock import monotonic, rfc3339, wall
from ollamux.system.files import private_dir, write_atomic
from ollamux.system.places import state_dir


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The words of the command."""

    model: str
    on: str | None
    maximise: str | None
    context: int | None
    create: str | None
    force: bool
    modelfile: str | None
    timeout: str
    output: str
    simulated: bool


def tune(words: Words) -> int:
    """Tune; ends with 6 where nothing works."""
    _check(words)
    search = _Tune(words)
    with _ending_as_ctrl_c():
        return search.run()


def _check(words: Words) -> None:
    known = [what.value for what in What]
    if words.output not in ("table", "json"):
        raise UsageError(f"-o: there is no form {words.output!r}", hint="there are: table, json")
    if words.maximise is not None and words.maximise not in known:
        raise UsageError(f"--maximise: there is no {words.maximise!r}", hint=f"there are: {', '.join(known)}")
    if words.force and words.create is None:
        raise UsageError("--force goes with --create alone")
    if words.maximise == What.PARALLEL.value and (words.create or words.modelfile):
        raise UsageError(
            "--maximise parallel: the number of slots is no parameter of a model",
            hint="num_parallel in the configuration sets it",
        )
    if words.modelfile == "-" and words.output == "json":
        raise UsageError("--modelfile - and -o json would both be printed", hint="the JSON has the Modelfile in it")


class _Tune:
    """One tune, from the first question to the last word."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._model = model_name(words.model)
        self._name = None if words.create is None else model_name(words.create)
        self._timeout_s = seconds(words.timeout, "--timeout")
        self._began = monotonic()
        self._screen = _Screen(live=screen.is_drawable(os.environ))
        self._tuned: Tuned | None = None
        self._back: tuple[str, ...] = ()
        self._missing: tuple[str, ...] = ()

    def run(self) -> int:
        before = look(self._words.on, simulated=self._words.simulated)
        what = None if self._words.maximise is None else What(self._words.maximise)
        wanted = Wanted(model=self._model, instance=before.name, what=what, context=self._words.context)
        model = model_to_tune(wanted, before.store, has_cards=before.has_cards)
        self._must_be_free(before.store)
        lease, error = None, None
        try:
            lease = borrow(
                self._model,
                before.name,
                timeout_s=self._timeout_s,
                simulated=self._words.simulated,
                tick=self._screen.tick,
            )
            self._search(self._prepare(lease, before, wanted, model), before)
        except (OllamuxError, KeyboardInterrupt) as found:
            error = found
        except BaseException:
            if lease is not None:
                lease.close()
            raise
        self._give_back(lease, (before.host, before.port))
        self._screen.clear()
        return self._end(error)

    def _must_be_free(self, store: str) -> None:
        """A name that is taken is told before the search, not after it."""
        if self._name is None or self._words.force:
            return
        if find_manifest(Path(store), self._name) is not None:
            raise RefusedError(f"there is a model {self._name} already", hint="--force replaces it")

    def _prepare(self, lease: Lease, before: Instance, wanted: Wanted, model: Model) -> Kit:
        loan, which = lease.view()["tuning"], lease.simulated
        task, self._expected = task_of(
            wanted,
            model,
            headroom=loan["headroom_bytes"],
            version=before.version,
            env=before.env,
            gpus=read_cards(before.uuids, simulated=which),
        )
        self._tuned = self._screen.tuned = Tuned(
            version=__version__, time=rfc3339(wall()), simulated=which, task=task, steps=(), complete=False
        )
        place = Place(loan["program"], {**before.env, **loan["marks"]}, before.host, _log(lease.name, which))
        return Kit(task=task, place=place, lease=lease, timeout_s=self._timeout_s, tick=self._screen.tick)

    def _search(self, kit: Kit, before: Instance) -> None:
        task = kit.task
        search = Search(count=len(task.values), guess=task.guess)
        while (index := search.next) is not None:
            self._screen.value = task.values[index]
            step = measure(kit, task.values[index])
            self._put(steps=(*self._so_far.steps, step))
            search = search.told(index, step.works, guess=self._expected.guess_after(self._so_far.steps))
        self._screen.value = None
        self._put(complete=True)
        best = self._so_far.best
        if best is None or task.what is What.PARALLEL:
            return
        parameters = dict(options_of(task, best.value))
        self._put(modelfile=modelfile(task.model, parameters, summary(self._so_far)))
        if self._name is not None:
            self._screen.value = best.value
            self._create(kit, self._name, parameters, (before.host, before.port))

    def _create(self, kit: Kit, name: str, parameters: dict[str, int], address: tuple[str, int]) -> None:
        """Create the model, and see that it works as it is."""
        best = self._so_far.best
        assert best is not None  # noqa: S101 - nothing is created of nothing
        create(kit, name, parameters, address, self._timeout_s)
        step = measure(kit, best.value, created=name)
        self._put(steps=(*self._so_far.steps, step), created=name)
        if not step.works:
            why = f"{name} is created, but as it is it does not work: {step.reason}"
            raise OllamuxError(why, exit_code=Exit.DEGRADED)

    @property
    def _so_far(self) -> Tuned:
        assert self._tuned is not None  # noqa: S101 - there is one once the search begins
        return self._tuned

    def _put(self, **changed: Any) -> None:
        self._tuned = self._screen.tuned = replace(self._so_far, **changed, seconds=monotonic() - self._began)

    def _give_back(self, lease: Lease | None, address: tuple[str, int]) -> None:
        """Give the instance back, and see what it had loaded be loaded again: by ourselves, where nobody else does."""
        if lease is None:
            return
        self._screen.value = None
        try:
            found = lease.give_back(self._screen.tick)
            self._back, self._missing = found or load_again(lease, address, self._screen.tick)
        except KeyboardInterrupt:  # a second time: the supervisor goes on without us
            self._missing = lease.names
        if self._tuned is not None:
            self._put(restored=self._back, not_restored=self._missing)

    # -- the last word

    def _end(self, error: OllamuxError | KeyboardInterrupt | None) -> int:
        if self._tuned is not None and (error is None or self._tuned.steps):
            why = None if error is None else "interrupted" if isinstance(error, KeyboardInterrupt) else error.message
            self._put(why=why)
            self._write_modelfile()
            self._print()
        if self._words.output == "table" and (error is not None or self._missing):
            self._say_what_is_back(isinstance(error, KeyboardInterrupt))
        if error is not None:
            raise error
        return int(Exit.OK if self._so_far.best is not None else Exit.DEGRADED)

    def _write_modelfile(self) -> None:
        text, path = self._so_far.modelfile, self._words.modelfile
        if text is not None and path not in (None, "-"):
            try:
                write_atomic(str(path), text.encode(), mode=0o644)
            except OSError as problem:
                screen.say(f"{safe_text(str(path))} could not be written: {problem.strerror}\n", fd=2)
                screen.say(text)

    def _print(self) -> None:
        tuned, words = self._so_far, self._words
        if words.output == "json":
            screen.write(json.dumps(as_json(tuned), indent=2, ensure_ascii=False) + "\n")
        elif words.modelfile == "-" and tuned.modelfile is not None:
            screen.write(tuned.modelfile)
        else:
            screen.write(draw_tuned(_pen(), tuned))
            if tuned.modelfile is not None and words.modelfile is None:
                screen.say(f"\n{tuned.modelfile}")

    def _say_what_is_back(self, interrupted: bool) -> None:
        said = ["interrupted"] if interrupted else []
        if self._back:
            said.append(f"loaded again: {', '.join(map(safe_text, self._back))}")
        if self._missing:
            missing = ", ".join(map(safe_text, self._missing))
            said.append(f"not loaded again yet: {missing} (ollamux models ls shows how it goes)")
        if said:
            screen.say("; ".join(said) + "\n", fd=2)


def _log(name: str, simulated: bool) -> str:
    """Return where the servers of the trials log: the last one can be read there afterwards."""
    folder = f"{state_dir(os.environ, simulated=simulated)}/tune"
    private_dir(folder)
    return f"{folder}/{name}.log"


def _pen() -> Pen:
    env = os.environ
    return Pen(width=screen.width(env), color=screen.color(env), unicode=screen.unicode(env))


class _Screen:
    """How far it is, on a terminal: lines that are drawn over again."""

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._height = 0
        self._frame = 0
        self.tuned: Tuned | None = None
        self.value: int | None = None

    def tick(self, doing: str) -> None:
        if not self._live:
            return
        pen = _pen()
        if self.tuned is None:
            lines = [pen.line((*pen.text(f" {pen.spinner(self._frame)} ", "key"), *pen.text(doing)))]
        else:
            lines = progress(pen, self.tuned.task, self.tuned.steps, doing, self._frame, self.value)
        self._frame += 1
        self.clear()
        screen.write("".join(line + "\n" for line in lines))
        self._height = len(lines)

    def clear(self) -> None:
        if self._height:
            screen.write(f"\x1b[{self._height}A\x1b[J")
            self._height = 0


@contextmanager
def _ending_as_ctrl_c() -> Iterator[None]:
    """A terminal that is closed, and SIGTERM, end it as Ctrl-C does: in good order."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
