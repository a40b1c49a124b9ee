"""The loop that all trainings share: steps, validation, the best weights, interruption, a state to resume from."""

from __future__ import annotations

import json
import logging
import math
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llamaindex_code_retrieval._io import write_atomically
from llamaindex_code_retrieval.models.weights import check_weights
from llamaindex_code_retrieval.training.config import LoopConfig
from llamaindex_code_retrieval.training.objective import Entry, Objective

logger = logging.getLogger(__name__)

STATE = "state.safetensors"
"""The file of an unfinished run, which ``resume`` reads."""

OnStep = Callable[[int, int, Mapping[str, Any]], object]
"""Called with (step, total steps, log entry) after each step and each validation."""

Scores = Callable[[], Mapping[str, float]]
"""Returns the validation scores of the model in its current state; the loop's ``metric`` decides the best step."""


@dataclass(slots=True)
class RunProgress:
    """The progress of a run; saved as the metadata of its state."""

    step: int = 0
    total: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_score: float = -math.inf
    worse: int = 0
    """Validations since the best one."""
    history: list[Entry] = field(default_factory=list)


class Loop:
    """One training in progress."""

    def __init__(
        self,
        objective: Objective,
        config: LoopConfig,
        *,
        total: int,
        identity: Mapping[str, str],
        folder: Path | None = None,
        on_step: OnStep | None = None,
        writes: bool = True,
        metric: str = "mrr",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare a run of ``total`` steps.

        Args:
            objective: what is minimised.
            config: settings.
            total: number of steps.
            identity: what must be equal for the unfinished run in ``folder`` to be resumed, by name.
            folder: where the state is saved; ``None`` saves none.
            on_step: called after each step and each validation.
            writes: whether this process saves the state.
            metric: the validation score that decides which step is the best one; larger is better.
            clock: returns seconds, for the time budget and the log.
        """
        self.objective = objective
        self.config = config
        self.identity = dict(identity)
        self.folder = folder
        self.on_step = on_step
        self.writes = writes
        self.metric = metric
        self.progress = RunProgress(total=total)
        self.optimizer, self._factors = _optimizer(objective, config)
        self.best = {name: p.detach().clone() for name, p in objective.parameters.items()}
        self._clock = clock
        self._started = 0.0
        self._saved_at = 0.0
        self._validation_seconds = 0.0

    def run(self, validate: Scores | None, *, validate_first: Scores | None = None) -> None:
        """Train to the end.

        ``validate`` runs before the first step, every ``validate_steps`` and after the last step; without it the last
        step is the best. ``validate_first`` replaces it before the first step, and its scores compete with no step.
        """
        self._started = self._clock() - self.progress.seconds
        if self.progress.step == 0 and validate_first is not None:
            self._log({"step": 0, "validation": dict(validate_first())}, _Interrupt())
        elif self.progress.step == 0 and validate is not None:
            self._validate(validate, _Interrupt())
        with _deferred_interrupt() as interrupt:
            while self.progress.step < self.progress.total and not self._is_out_of_patience():
                self._train_step(interrupt)
                interval = self.config.validate_steps or max(1, self.progress.total // 5)
                is_last = self.progress.step == self.progress.total
                if validate is not None and (is_last or self.progress.step % interval == 0):
                    self._validate(validate, interrupt)
                if interrupt.requested or self._is_due():
                    self.save()
                if interrupt.requested:
                    raise KeyboardInterrupt
        if validate is None:
            self._keep_best(-math.inf)
        try:
            self.save()
        except OSError as error:  # the model is saved next, and takes less room than the state
            logger.warning("the state of the finished run could not be saved: %s", error)

    def _train_step(self, interrupt: _Interrupt) -> None:
        self.objective.prepare(self.progress.step)
        try:
            entry = self.step()
        except FloatingPointError:
            self.objective.rewind()
            self.save()
            raise
        self.progress.step += 1
        self.progress.seconds = self._clock() - self._started
        self._log({"step": self.progress.step, **entry, "seconds": round(self.progress.seconds, 2)}, interrupt)
        self._fit_into_time()

    def step(self) -> Entry:
        """Make one update; return its log entry.

        Raises:
            FloatingPointError: the loss or a gradient is not finite.
        """
        step, config, objective = self.progress.step, self.config, self.objective
        rate = config.learning_rate * _schedule(step, self.progress.total, config.warmup)
        for group, factor in zip(self.optimizer.param_groups, self._factors, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad()
        loss, batch = objective.backward(step)
        norm = float(torch.nn.utils.clip_grad_norm_(objective.parameters.values(), config.max_gradient_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            saved = "" if self.folder is None else f"; the state before it is kept in {self.folder / STATE}"
            raise FloatingPointError(
                f"loss {loss} and gradient norm {norm} at step {step + 1}, in {batch}{saved}; lower the learning rate "
                f"(now {config.learning_rate}) and start anew"
            )
        self.optimizer.step()
        entry = {"loss": round(loss, 5), "learning_rate": rate, "gradient_norm": round(norm, 4)}
        return entry | objective.finish(step)

    def restore_best(self) -> None:
        """Give the model the weights of the best step."""
        with torch.no_grad():
            for name, parameter in self.objective.parameters.items():
                parameter.copy_(self.best[name])

    def _log(self, entry: Entry, interrupt: _Interrupt) -> None:
        self.progress.history.append(entry)
        if self.on_step is not None:
            try:
                self.on_step(self.progress.step, self.progress.total, entry)
            except KeyboardInterrupt:
                interrupt.requested = True  # this step is finished first

    def _validate(self, validate: Scores, interrupt: _Interrupt) -> None:
        started = self._clock()
        scores = self._score(validate)
        self._validation_seconds = self._clock() - started
        self._log({"step": self.progress.step, "validation": scores}, interrupt)
        if not self.objective.ready:
            return
        if scores[self.metric] > self.progress.best_score:
            self._keep_best(scores[self.metric])
        else:
            self.progress.worse += 1

    def _score(self, validate: Scores) -> dict[str, float]:
        """Return the validation scores.

        Raises:
            FloatingPointError: the model cannot be scored any more, because training has made its output NaN.
        """
        try:
            return dict(validate())
        except ValueError as error:
            if self.progress.step == 0:  # training has not changed the model
                raise
            raise FloatingPointError(
                f"the model cannot be validated after step {self.progress.step} ({error}); lower the learning rate "
                f"(now {self.config.learning_rate}) and start anew"
            ) from error

    def _keep_best(self, score: float) -> None:
        self.progress.best_score, self.progress.best_step, self.progress.worse = score, self.progress.step, 0
        for name, parameter in self.objective.parameters.items():
            self.best[name].copy_(parameter.detach())

    def _is_out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.progress.worse

    def _is_due(self) -> bool:
        """Return whether the state has to be saved after this step."""
        seconds = self.config.save_seconds
        late = seconds is not None and self.progress.seconds - self._saved_at >= seconds
        return late or self.progress.step % self.config.save_steps == 0

    def _fit_into_time(self) -> None:
        """Cut the schedule to the time budget: after five steps by their speed, later when the time is over."""
        if self.config.max_seconds is None:
            return
        validations = 1 if self.config.validate_steps else 5
        left = self.config.max_seconds - validations * self._validation_seconds - self.progress.seconds
        if self.progress.step == 5:
            times = [entry["seconds"] for entry in self.progress.history if "loss" in entry]
            seconds_per_step = max(1e-3, (times[4] - times[0]) / 4)
            self.progress.total = min(self.progress.total, 5 + max(1, int(left / seconds_per_step)))
        elif self.progress.step > 5 and self.progress.seconds > self.config.max_seconds:
            self.progress.total = self.progress.step

    # --- saving and resuming -----------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write all that the run needs to go on into one file, atomically."""
        self._saved_at = self.progress.seconds
        if self.folder is None or not self.writes:
            return
        tensors, values = self.objective.state()
        for name, parameter in (*self.objective.parameters.items(), *self.objective.extras.items()):
            tensors[f"parameter/{name}"] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value
        tensors.update((f"best/{name}", tensor) for name, tensor in self.best.items())
        metadata = {**asdict(self.progress), "identity": self.identity, "objective": values}
        data = safetensors.torch.save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            metadata={"run": json.dumps(metadata)},
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / STATE, data)

    def load(self) -> None:
        """Restore the run from its saved state.

        Raises:
            ValueError: there is no state, it is damaged or foreign, or it is that of a run with another ``identity``.
        """
        path = None if self.folder is None else self.folder / STATE
        if path is None or not path.is_file():
            raise ValueError(f"there is no unfinished run in {self.folder}; start one without resume")
        metadata, tensors = _read_state(path)
        identity, objective_values = metadata.pop("identity"), metadata.pop("objective")
        for key in {**self.identity, **identity}:
            if self.identity.get(key) != identity.get(key):
                raise ValueError(
                    f"the unfinished run in {self.folder} has another {key} than this one ({identity.get(key)} and "
                    f"{self.identity.get(key)}); resume with the same, or start anew in another folder"
                )
        trained = {**self.objective.parameters, **self.objective.extras}
        _check_tensors(path, tensors, trained, self.best)
        try:
            self.objective.restore(tensors, objective_values)
            self.progress = RunProgress(**metadata)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} lacks a part of its run ({error!r}); {_ANEW}") from error
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(tensors[f"parameter/{name}"])
                if f"step/{name}" in tensors:
                    self.optimizer.state[parameter] = {
                        "step": tensors[f"step/{name}"],
                        "exp_avg": tensors[f"exp_avg/{name}"].to(parameter.device),
                        "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(parameter.device),
                    }
        self.best = {name: tensors[f"best/{name}"].to(p.device) for name, p in self.objective.parameters.items()}


_ANEW = "start anew in another folder"


def _read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the metadata and the tensors that :meth:`Loop.save` wrote.

    Raises:
        ValueError: the file is damaged, or is not the state of a run.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata: dict[str, Any] = json.loads((file.metadata() or {})["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
        if not isinstance(metadata["identity"], dict) or not isinstance(metadata["objective"], dict):
            raise TypeError("identity and objective must be objects")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or is not the state of a training ({error!r}); {_ANEW}") from error
    return metadata, tensors


def _check_tensors(
    path: Path, tensors: Mapping[str, Tensor], trained: Mapping[str, Tensor], best: Mapping[str, Tensor]
) -> None:
    """Check that the state has each trained tensor, its best values and its moments, in its shape and finite."""
    expected = {f"parameter/{name}": tensor.shape for name, tensor in trained.items()}
    expected |= {f"best/{name}": tensor.shape for name, tensor in best.items()}
    for name, tensor in trained.items():
        if f"step/{name}" in tensors:
            expected |= {f"{moment}/{name}": tensor.shape for moment in ("exp_avg", "exp_avg_sq")}
    kinds = tuple(f"{kind}/" for kind in ("parameter", "best", "exp_avg", "exp_avg_sq"))
    saved = {name: tensor for name, tensor in tensors.items() if name.startswith(kinds)}
    check_weights(saved, expected, source=path, remedy=_ANEW)


def _optimizer(objective: Objective, config: LoopConfig) -> tuple[torch.optim.AdamW, list[float]]:
    """Return the optimizer, with a group of parameters per factor of the learning rate, and the factors."""
    by_factor: dict[float, list[Tensor]] = {}
    for name, parameter in objective.parameters.items():
        by_factor.setdefault(objective.rate_factors.get(name, 1.0), []).append(parameter)
    factors = sorted(by_factor)
    groups: list[dict[str, Any]] = [{"params": by_factor[factor]} for factor in factors]
    if objective.extras:
        groups.append({"params": list(objective.extras.values()), "weight_decay": 0.0})
        factors.append(1.0)
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay), factors


@dataclass(slots=True)
class _Interrupt:
    requested: bool = False


@contextmanager
def _deferred_interrupt() -> Iterator[_Interrupt]:
    """Record the first Ctrl-C instead of raising it, so that the current step ends; a second one stops at once."""
    interrupt = _Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def request(signum: int, frame: object) -> None:
        if interrupt.requested:
            raise KeyboardInterrupt
        interrupt.requested = True
        logger.warning("stopping after this step; a second Ctrl-C stops at once and returns to the last saved state")

    before = signal.signal(signal.SIGINT, request)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def _schedule(step: int, total: int, warmup: float) -> float:
    """Return the factor of the learning rate at ``step`` (from 0): a linear rise, then a linear fall.

    >>> [_schedule(step, 4, 0.5) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rise = max(1, round(warmup * total))
    return min((step + 1) / rise, (total - step) / max(1, total - rise), 1.0)


def peak_bytes(device: torch.device) -> int:
    """Return the largest resident memory of the process, or device memory on CUDA."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
