"""Search: which blocks should be connected?

The search knows nothing of networks. It asks `reward(schemes)` for the task value of some schemes, validation
accuracy in percent, and looks for the scheme s with the highest

    objective(s) = λ_val · value(s) + λ_spa · sparsity(s)

within a budget of distinct schemes. EAN's controller (`reinforce`) stands beside five baselines with the same
budget: a search is worth its cost only where it beats random search (Li & Talwalkar 2019; Yu et al. 2020).

`search` is a pure function of (reward, stages, config): asked again with recorded values it takes the same
steps, so an interrupted search goes on by being replayed.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from numbers import Real
from typing import Any, Literal

import torch

from ean_lib.checks import Count, NotNegative, Seed, check
from ean_lib.schemes import Scheme
from ean_lib.search.controller import Controller, ControllerConfig

Reward = Callable[[list[Scheme]], Sequence[float]]
EXHAUSTIVE_LIMIT = 2**16  # schemes
CHUNK = 64  # schemes asked at once where a method has many: the scorer shares work between them


@dataclass(frozen=True)
class SearchConfig(ControllerConfig):
    """Options of a search; all of `ControllerConfig` but `samples` matter to the method "reinforce" only."""

    # How schemes are proposed; "exhaustive" tries them all.
    method: Literal["reinforce", "random", "greedy", "evolution", "tpe", "exhaustive"] = "reinforce"
    # Most distinct schemes that may be evaluated, whatever the method; None: steps × samples.
    budget: Count | None = None
    # Most steps of the controller.
    steps: Count = 300
    # Weight of the task value (accuracy in percent) in the objective.
    lambda_val: NotNegative = 1.0
    # Weight of the sparsity (0 to 1) in the objective: what connecting no block at all is worth, in percent.
    lambda_spa: NotNegative = 2.0
    # Schemes alive at a time, for the method "evolution".
    population: Count = 16
    # Schemes that compete to have the next offspring, for the method "evolution".
    tournament: Count = 8
    # Seed of everything random.
    seed: Seed = 0

    @property
    def max_evaluations(self) -> int:
        """The budget, in distinct schemes."""
        return self.steps * self.samples if self.budget is None else self.budget

    def objective(self, scheme: Scheme, value: float) -> float:
        """λ_val · value + λ_spa · sparsity, in percent."""
        return self.lambda_val * value + self.lambda_spa * scheme.sparsity


@dataclass(frozen=True)
class SearchResult:
    """What a search found, and everything it saw on the way."""

    scheme: Scheme  # the final scheme
    objective: float  # of the final scheme, percent
    value: float  # the final scheme's reward value (validation accuracy, percent)
    sparsity: float  # of the final scheme, 0 to 1
    method: str
    evaluations: int  # distinct schemes evaluated
    calls: int  # schemes evaluated, repetitions included; more than `evaluations` without a cache only
    constant_reward: bool  # every value was the same, so that only sparsity was searched
    values: dict[str, float]  # value of every scheme evaluated, in the order of evaluation
    history: list[dict[str, Any]]  # one record per step, see `search`
    config: SearchConfig

    def __str__(self) -> str:
        return f"{self.scheme} ({self.scheme.connected} of {len(self.scheme)} connected, value {self.value:.2f}%)"

    @property
    def best_so_far(self) -> list[float]:
        """The best objective after each of the evaluations, percent."""
        objectives = (self.config.objective(Scheme.parse(text), value) for text, value in self.values.items())
        return list(accumulate(objectives, max))

    def to_json(self) -> str:
        """JSON text that `from_json` reads back without loss."""
        return json.dumps(vars(self) | {"scheme": str(self.scheme), "config": asdict(self.config)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> SearchResult:
        """Read what `to_json` wrote.

        Raises:
            ValueError: if the text is not a search result.
        """
        try:
            fields = json.loads(text)
            scheme, config = Scheme.parse(fields["scheme"]), SearchConfig(**fields["config"])
            return cls(**fields | {"scheme": scheme, "config": config})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not the JSON of a search result: {type(error).__name__}: {error}") from error


class Evaluations:
    """The reward's values, bought once each, and the record of the steps that bought them."""

    def __init__(self, reward: Reward, stages: Sequence[int], config: SearchConfig) -> None:
        self.reward, self.config = reward, config
        self.stages, self.blocks = tuple(stages), sum(stages)
        self.values: dict[Scheme, float] = {}
        self.calls = 0
        self.history: list[dict[str, Any]] = []
        self.best: Scheme | None = None

    @property
    def left(self) -> int:
        """How many more schemes can be evaluated: the rest of the budget, or of all schemes."""
        return min(self.config.max_evaluations, 2**self.blocks) - len(self.values)

    def affords(self, schemes: Sequence[Scheme]) -> bool:
        return len(set(schemes) - self.values.keys()) <= self.left

    def evaluate(self, schemes: Sequence[Scheme], *, cache: bool = True) -> list[float]:
        """Objectives of the schemes; those seen before are not asked for again, unless cache is off."""
        asked = [s for s in dict.fromkeys(schemes) if s not in self.values] if cache else list(schemes)
        if asked:
            values = checked_values(asked, self.reward(list(asked)))
            self.calls += len(asked)
            for scheme, value in zip(asked, values, strict=True):
                self.values.setdefault(scheme, value)
            self.best = min((s for s in {self.best, *asked} if s is not None), key=self.order)
        return [self.objective(scheme) for scheme in schemes]

    def objective(self, scheme: Scheme) -> float:
        return self.config.objective(scheme, self.values[scheme])

    def order(self, scheme: Scheme) -> tuple[float, int, str]:
        """Sorts the best scheme first: highest objective, then fewest connections, then lexicographic."""
        return -self.objective(scheme), scheme.connected, str(scheme)

    def record(self, schemes: Sequence[Scheme], **details: Any) -> None:
        """Close a step: what was proposed, what it was worth, and the best scheme up to now."""
        entry = {"step": len(self.history), "schemes": [str(s) for s in schemes]}
        entry |= {"values": [self.values[s] for s in schemes], "objectives": [self.objective(s) for s in schemes]}
        best = {"best_scheme": str(self.best), "best_objective": self.objective(self.best)}
        self.history.append(entry | {"evaluations": len(self.values)} | best | details)

    def try_all(self, schemes: Sequence[Scheme]) -> None:
        """Evaluate and record as one step as many of the schemes as the budget allows."""
        affordable = [s for s in dict.fromkeys(schemes) if s not in self.values][: self.left]
        if affordable:
            self.evaluate(affordable)
            self.record(affordable)

    def unseen(self, count: int, generator: torch.Generator) -> list[Scheme]:
        """Up to count distinct schemes never evaluated, drawn uniformly."""
        if 2**self.blocks < 2 * (len(self.values) + count):  # too few are left to find them by chance
            rest = [s for s in Scheme.all_of(self.stages) if s not in self.values]
            return [rest[i] for i in torch.randperm(len(rest), generator=generator)[:count].tolist()]
        drawn: dict[Scheme, None] = {}
        while len(drawn) < count:
            scheme = Scheme.random(self.stages, generator)
            if scheme not in self.values:
                drawn[scheme] = None
        return list(drawn)


def flip(scheme: Scheme, block: int) -> Scheme:
    """The scheme with one bit changed."""
    return Scheme(tuple(not bit if i == block else bit for i, bit in enumerate(scheme.bits)), scheme.stages)


def checked_values(schemes: Sequence[Scheme], values: Any) -> list[float]:
    """The reward's answer as floats, one per scheme.

    Raises:
        ValueError: if a value is missing, too many, not a number, or not finite.
    """
    values = values.tolist() if hasattr(values, "tolist") else values
    fits = isinstance(values, Sequence) and not isinstance(values, str) and len(values) == len(schemes)
    check("the reward's answer", values, fits, f"one number per scheme, {len(schemes)} in all")
    numbers = [value.item() if hasattr(value, "item") else value for value in values]
    for scheme, value in zip(schemes, numbers, strict=True):
        finite = isinstance(value, Real) and math.isfinite(value)
        check(f"the reward of scheme {scheme}", value, finite, "a finite number")
    return [float(value) for value in numbers]


def reinforce(found: Evaluations, generator: torch.Generator) -> Scheme | None:
    """EAN's controller; the records of its steps also hold what `Controller.update` returns.

    Steps end early when a batch would break the budget. The policy's most probable scheme is evaluated last,
    in a record of its own, where the budget allows. Without `keep_best` the result is the most probable scheme
    that was evaluated.
    """
    config = found.config.resolved()
    controller = Controller(found.blocks, config, config.seed)
    for _ in range(config.steps):
        bits = controller.sample()
        schemes = [Scheme(tuple(row), found.stages) for row in bits.tolist()]
        if not found.affords(schemes):
            break
        objectives = found.evaluate(schemes, cache=config.cache)
        found.record(schemes, **controller.update(bits, torch.tensor(objectives, dtype=torch.float64)))
    p = controller.probabilities()
    mode = Scheme(tuple((p > 0.5).tolist()), found.stages)
    if found.affords([mode]):
        found.evaluate([mode])
        found.record([mode], logits=controller.logits().tolist(), probabilities=p.tolist())
    if config.keep_best:
        return None
    evaluated = sorted(found.values, key=lambda scheme: (scheme.connected, str(scheme)))
    log_probs = controller.log_probs(torch.tensor([scheme.bits for scheme in evaluated])).sum(dim=1)
    return evaluated[int(log_probs.argmax())]


def random_search(found: Evaluations, generator: torch.Generator) -> None:
    """Distinct schemes, uniformly."""
    while found.left > 0:
        found.try_all(found.unseen(min(CHUNK, found.left), generator))


def greedy(found: Evaluations, generator: torch.Generator) -> None:
    """Steepest ascent by single blocks: from none, connect or disconnect the block that helps most.

    Where no block helps it starts anew from a random scheme.
    """
    start = Scheme.none(found.stages)
    while found.left > 0:
        found.try_all([start])
        current, improved = start, True
        while improved and found.left > 0:
            neighbours = [flip(current, block) for block in range(found.blocks)]
            found.try_all(neighbours)
            known = [s for s in neighbours if s in found.values]
            best = min([current, *known], key=found.order)
            improved, current = best != current, best
        start = next(iter(found.unseen(1, generator)), start)


def evolution(found: Evaluations, generator: torch.Generator) -> None:
    """Aging evolution (Real et al. 2019): the best of a random few has an offspring with one bit flipped.

    The oldest dies. The flip is drawn from those that give a new scheme; where there is none, the child is random.
    """
    config = found.config
    alive = deque(found.unseen(min(config.population, found.left), generator), maxlen=config.population)
    found.try_all(list(alive))
    while found.left > 0:
        children: list[Scheme] = []
        for _ in range(min(config.samples, found.left)):
            chosen = torch.randperm(len(alive), generator=generator)[: config.tournament].tolist()
            parent = min((alive[i] for i in chosen), key=found.order)
            for block in torch.randperm(found.blocks, generator=generator).tolist():
                child = flip(parent, block)
                if child not in found.values and child not in children:
                    break
            else:
                child = found.unseen(1, generator)[0]
            children.append(child)
        found.try_all(children)
        alive.extend(children)


def tpe(found: Evaluations, generator: torch.Generator) -> None:
    """Tree-structured Parzen estimator (Bergstra et al. 2011), by optuna; its own seed is config.seed."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces each new study
    sampler = optuna.samplers.TPESampler(seed=found.config.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    optuna.logging.set_verbosity(verbosity)
    repeated = 0
    while found.left > 0:
        if repeated >= 10:  # the estimator has settled: give it something new
            unseen = found.unseen(1, generator)[0]
            study.enqueue_trial({f"block {i}": bit for i, bit in enumerate(unseen.bits)})
        trial = study.ask()
        bits = tuple(trial.suggest_categorical(f"block {i}", (False, True)) for i in range(found.blocks))
        scheme = Scheme(bits, found.stages)
        repeated = repeated + 1 if scheme in found.values else 0
        found.try_all([scheme])
        study.tell(trial, found.objective(scheme))


def exhaustive(found: Evaluations, generator: torch.Generator) -> None:
    """Every scheme there is.

    Raises:
        ValueError: if there are more than 2^16, or than the budget.
    """
    total, limit = 2**found.blocks, min(EXHAUSTIVE_LIMIT, found.config.max_evaluations)
    if total > limit:
        advice = "choose another method" + (f", or budget={total}" if total <= EXHAUSTIVE_LIMIT else "")
        many = f"stages {found.stages} have 2^{found.blocks} = {total} schemes"
        raise ValueError(f"{many}, but an exhaustive search may evaluate {limit}: {advice}")
    schemes = list(Scheme.all_of(found.stages))
    for start in range(0, total, CHUNK):
        found.try_all(schemes[start : start + CHUNK])


METHODS: dict[str, Callable[[Evaluations, torch.Generator], Scheme | None]] = {
    "reinforce": reinforce,
    "random": random_search,
    "greedy": greedy,
    "evolution": evolution,
    "tpe": tpe,
    "exhaustive": exhaustive,
}


def search(reward: Reward, stages: Sequence[int], config: SearchConfig) -> SearchResult:
    """Find the connection scheme with the highest objective.

    Args:
        reward: value of each of a list of schemes (validation accuracy, percent), the same whenever it is
            asked. It is not asked for a scheme twice, unless config.cache is off (official mode).
        stages: blocks per stage, such as (3, 4, 6, 3).
        config: method, budget, weights, seed.

    Returns:
        The final scheme and the record. Each entry of its history has step, schemes, values, objectives (one
        per scheme proposed), evaluations (distinct, up to now), best_scheme, best_objective; and, for the
        method "reinforce", what `Controller.update` returns.

    Raises:
        ValueError: if stages are not positive integers, the reward gives anything but one finite number per
            scheme, or an exhaustive search is larger than its budget.
    """
    stages = Scheme.none(stages).stages
    found = Evaluations(reward, stages, config)
    generator = torch.Generator().manual_seed(config.seed)
    final = METHODS[config.method](found, generator) or found.best
    values = {str(scheme): value for scheme, value in found.values.items()}
    return SearchResult(
        scheme=final, objective=found.objective(final), value=found.values[final], sparsity=final.sparsity,
        method=config.method, evaluations=len(values), calls=found.calls,
        constant_reward=len(values) > 1 and len(set(values.values())) == 1,
        values=values, history=found.history, config=config,
    )  # fmt: skip
