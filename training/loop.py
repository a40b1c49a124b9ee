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
from typing import Any, Protocol

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from llamaindex_code_retrieval._io import write_atomically
from llamaindex_code_retrieval.training.config import LoopConfig

logger = logging.getLogger(__name__)

STATE = "state.safetensors"
"""The file of an unfinished run that ``resume`` reads."""

OnStep = Callable[[int, int, Mapping[str, Any]], object]
"""Called with (step, all steps, what is logged)."""


class Objective(Protocol):
    """What a training minimises, with all its state but the parameters that are trained."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """What is trained, kept where it was best, and clipped together."""

    @property
    def extras(self) -> Mapping[str, Tensor]:
        """What is trained beside it, neither clipped nor decayed, such as a temperature."""

    @property
    def rate_factors(self) -> Mapping[str, float]:
        """Name -> by how much its learning rate differs from the setting; 1 where it is silent."""

    @property
    def ready(self) -> bool:
        """Whether the model as it is may be the best one."""

    def prepare(self, step: int) -> None:
        """Do what comes before a step, such as mining."""

    def backward(self, step: int) -> tuple[float, str]:
        """Add the gradients of the next batch to the parameters; return its loss, and what to call it in an error."""

    def rewind(self) -> None:
        """Make the batch of the last ``backward`` the next one again."""

    def finish(self, step: int) -> dict[str, Any]:
        """Do what comes after the update of a step; return what to log."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a resumed run has to know."""

    def restore(self, tensors: Mapping[str, Tensor], facts: dict[str, Any]) -> None:
        """Take up what ``state`` returned."""


@dataclass(slots=True)
class Progress:
    """What a run knows beside its tensors; saved as the state's metadata."""

    step: int = 0
    total: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_mrr: float = -math.inf
    worse: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


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
    ) -> None:
        """``identity`` is what has to be equal for an unfinished run in ``folder`` to be this one."""
        self.objective = objective
        self.config = config
        self.identity = dict(identity)
        self.folder = folder
        self.on_step = on_step
        self.writes = writes
        self.at = Progress(total=total)
        self._factors: list[float] = []
        groups: list[dict[str, Any]] = []
        for factor in sorted({objective.rate_factors.get(name, 1.0) for name in objective.parameters}):
            same = [p for name, p in objective.parameters.items() if objective.rate_factors.get(name, 1.0) == factor]
            groups.append({"params": same})
            self._factors.append(factor)
        if objective.extras:
            groups.append({"params": list(objective.extras.values()), "weight_decay": 0.0})
            self._factors.append(1.0)
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.best = {name: p.detach().clone() for name, p in objective.parameters.items()}
        self._started = 0.0
        self._validation_seconds = 0.0

    def go(
        self,
        validate: Callable[[], Mapping[str, float]] | None,
        *,
        before: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """Train to the end; with ``before``, what it returns is the score to compare with instead of the first one."""
        self._started = time.perf_counter() - self.at.seconds
        if self.at.step == 0 and before is not None:
            self._log({"step": 0, "validation": dict(before())}, [])
        elif self.at.step == 0 and validate is not None:
            self._validate(validate, [])
        with _deferred_interrupt() as interrupt:
            while self.at.step < self.at.total and not self._out_of_patience():
                self.objective.prepare(self.at.step)
                try:
                    facts = self.step()
                except FloatingPointError:
                    self.objective.rewind()
                    self.save()
                    raise
                self.at.step += 1
                self.at.seconds = time.perf_counter() - self._started
                self._log({"step": self.at.step, **facts, "seconds": round(self.at.seconds, 2)}, interrupt)
                self._fit_into_time()
                every = self.config.validate_steps or max(1, self.at.total // 5)
                if validate is not None and (self.at.step % every == 0 or self.at.step == self.at.total):
                    self._validate(validate, interrupt)
                if interrupt or self.at.step % self.config.save_steps == 0:
                    self.save()
                if interrupt:
                    raise KeyboardInterrupt
        if validate is None:
            self._keep_best(-math.inf)
        self.save()

    def step(self) -> dict[str, Any]:
        """Make one update; return what is logged of it."""
        step, config, objective = self.at.step, self.config, self.objective
        rate = config.learning_rate * _schedule(step, self.at.total, config.warmup)
        for group, factor in zip(self.optimizer.param_groups, self._factors, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad()
        loss, batch = objective.backward(step)
        norm = float(torch.nn.utils.clip_grad_norm_(objective.parameters.values(), config.max_gradient_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            kept = "" if self.folder is None else f"; the state before it is kept in {self.folder / STATE}"
            raise FloatingPointError(
                f"loss {loss} and gradient norm {norm} at step {step + 1}, in {batch}{kept}; lower the learning rate "
                f"(now {config.learning_rate}) and start anew"
            )
        self.optimizer.step()
        facts = {"loss": round(loss, 5), "learning_rate": rate, "gradient_norm": round(norm, 4)}
        return facts | objective.finish(step)

    def restore_best(self) -> None:
        """Give the model the weights of the best step."""
        with torch.no_grad():
            for name, parameter in self.objective.parameters.items():
                parameter.copy_(self.best[name])

    def _log(self, entry: dict[str, Any], interrupt: list[bool]) -> None:
        self.at.history.append(entry)
        if self.on_step is not None:
            try:
                self.on_step(self.at.step, self.at.total, entry)
            except KeyboardInterrupt:
                interrupt.append(True)  # this step is finished first

    def _validate(self, validate: Callable[[], Mapping[str, float]], interrupt: list[bool]) -> None:
        started = time.perf_counter()
        scores = dict(validate())
        self._validation_seconds = time.perf_counter() - started
        self._log({"step": self.at.step, "validation": scores}, interrupt)
        if not self.objective.ready:
            return
        if scores["mrr"] > self.at.best_mrr:
            self._keep_best(scores["mrr"])
        else:
            self.at.worse += 1

    def _keep_best(self, mrr: float) -> None:
        self.at.best_mrr, self.at.best_step, self.at.worse = mrr, self.at.step, 0
        for name, parameter in self.objective.parameters.items():
            self.best[name].copy_(parameter.detach())

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.at.worse

    def _fit_into_time(self) -> None:
        if self.config.max_seconds is None:
            return
        validations = 1 if self.config.validate_steps else 5
        left = self.config.max_seconds - validations * self._validation_seconds - self.at.seconds
        if self.at.step == 5:
            times = [entry["seconds"] for entry in self.at.history if "loss" in entry]
            a_step = max(1e-3, (times[4] - times[0]) / 4)
            self.at.total = min(self.at.total, 5 + max(1, int(left / a_step)))
        elif self.at.step > 5 and self.at.seconds > self.config.max_seconds:
            self.at.total = self.at.step

    # --- saving and resuming -----------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write all that the run needs to go on into one file, atomically."""
        if self.folder is None or not self.writes:
            return
        tensors, own = self.objective.state()
        for name, parameter in (*self.objective.parameters.items(), *self.objective.extras.items()):
            tensors[f"parameter/{name}"] = parameter.detach()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value
        tensors.update((f"best/{name}", tensor) for name, tensor in self.best.items())
        facts = {**asdict(self.at), "identity": self.identity, "objective": own}
        data = safetensors.torch.save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            metadata={"run": json.dumps(facts)},
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / STATE, data)

    def load(self) -> None:
        """Take up the run where its state was saved."""
        path = None if self.folder is None else self.folder / STATE
        if path is None or not path.is_file():
            raise ValueError(f"there is no unfinished run in {self.folder}; start one without resume")
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads(file.metadata()["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
        for key, value in facts.pop("identity").items():
            if self.identity.get(key) != value:
                raise ValueError(
                    f"the unfinished run in {self.folder} has another {key} than this one ({value} and "
                    f"{self.identity.get(key)}); resume with the same, or start anew in another folder"
                )
        self.objective.restore(tensors, facts.pop("objective"))
        self.at = Progress(**facts)
        with torch.no_grad():
            for name, parameter in (*self.objective.parameters.items(), *self.objective.extras.items()):
                parameter.copy_(tensors[f"parameter/{name}"])
                if f"step/{name}" in tensors:
                    self.optimizer.state[parameter] = {
                        "step": tensors[f"step/{name}"],
                        "exp_avg": tensors[f"exp_avg/{name}"].to(parameter.device),
                        "exp_avg_sq": tensors[f"exp_avg_sq/{name}"].to(parameter.device),
                    }
        self.best = {name: tensors[f"best/{name}"].to(p.device) for name, p in self.objective.parameters.items()}


@contextmanager
def _deferred_interrupt() -> Iterator[list[bool]]:
    """Let the first Ctrl-C wait until a step is finished (the list is then not empty); the second one stops at once."""
    asked: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(signum: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)
        logger.warning("stopping after this step; Ctrl-C again stops at once, and goes back to the last saved state")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
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
