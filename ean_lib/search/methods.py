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
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from numbers import Real
from typing import Any, Literal

import torch

from ean_lib.checks import Count, NotNegative, Seed, Whole, check, check_choice
from ean_lib.schemes import Scheme
from ean_lib.search.controller import Controller, ControllerConfig
from ean_lib.search.departures import SWITCHES, controller_type
from ean_lib.search.space import Space

Reward = Callable[[list[Scheme]], Sequence[float]]
EXHAUSTIVE_LIMIT = 2**16  # schemes
CHUNK = 64  # schemes asked at once where a method has many: the scorer shares work between them
PATIENCE = 10  # known schemes in a row, after which TPE is given a new one


@dataclass(frozen=True)
class SearchConfig(ControllerConfig):
    """Options of a search; all of `ControllerConfig` but `samples` matter to the method "reinforce" only."""

    # How schemes are proposed; "exhaustive" tries them all.
    method: Literal["reinforce", "random", "greedy", "evolution", "tpe", "exhaustive"] = "reinforce"
    # The most distinct schemes that may be evaluated, whatever the method; None: steps × samples.
    budget: Count | None = None
    # The most steps of the controller.
    steps: Count = 300
    # The weight of the task value (accuracy in percent) in the objective.
    lambda_val: NotNegative = 1.0
    # The weight of the sparsity (0 to 1) in the objective: what connecting no block at all is worth, in percent.
    lambda_spa: NotNegative = 2.0
    # The most blocks that may be connected; None: all of them.
    max_connected: Whole | None = None
    # What is decided already, as a pattern such as 1-?0-??: 1 connects a block, 0 does not, ? leaves it to the search.
    fixed: str | None = None
    # The number of schemes alive at a time, for the method "evolution".
    population: Count = 16
    # The number of schemes that compete to have the next offspring, for the method "evolution".
    tournament: Count = 8
    # The seed of everything random in the search.
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
    corrections: tuple[str, ...] | None = None  # as given to `search`; None: those of the config's mode

    def __str__(self) -> str:
        return f"{self.scheme} ({self.scheme.connected} of {len(self.scheme)} connected, value {self.value:.2f}%)"

    @property
    def best_so_far(self) -> list[float]:
        """The best objective after each of the evaluations, percent."""
        objectives = (self.config.objective(Scheme.parse(text), value) for text, value in self.values.items())
        return list(accumulate(objectives, max))

    def to_json(self) -> str:
        """JSON text that `from_json` reads back without loss."""
        fields = vars(self) | {"scheme": str(self.scheme), "config": asdict(self.config)}
        return json.dumps(fields, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> SearchResult:
        """Read what `to_json` wrote, also what it wrote when each correction was an option of the configuration.

        Raises:
            ValueError: if the text is not a search result.
        """
        try:
            fields = json.loads(text)
            options, switches = split_switches(fields["config"])
            corrections = fields.get("corrections", switches)
            fields["scheme"] = Scheme.parse(fields["scheme"])
            fields["config"] = SearchConfig(**options)
            fields["corrections"] = None if corrections is None else tuple(corrections)
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not the JSON of a search result: {type(error).__name__}: {error}") from error


def split_switches(stored: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...] | None]:
    """A stored configuration as today's options, and the corrections that it names.

    Each correction of the authors' code was once an option: True, False, or None for what the mode says. Where all of
    them mean what the mode says, the corrections are None.
    """
    options = {name: value for name, value in stored.items() if name not in SWITCHES}
    by_mode = options.get("mode", "corrected") == "corrected"
    active = []
    for name in SWITCHES:
        switch = stored.get(name)
        if by_mode if switch is None else switch:
            active.append(name)
    of_the_mode = SWITCHES if by_mode else ()
    return options, None if tuple(active) == of_the_mode else tuple(active)


class Evaluations:
    """The reward's values, bought once each, and the record of the steps that bought them.

    Args:
        reward: see `search`.
        space: the schemes that may be evaluated.
        config: the budget and the weights of the objective.
        corrections: the active ones, by name, for the method "reinforce".
    """

    def __init__(self, reward: Reward, space: Space, config: SearchConfig, corrections: frozenset[str]) -> None:
        self.reward = reward
        self.space = space
        self.config = config
        self.corrections = corrections
        self.values: dict[Scheme, float] = {}
        self.calls = 0
        self.history: list[dict[str, Any]] = []
        self.best: Scheme | None = None

    @property
    def left(self) -> int:
        """How many more schemes can be evaluated: the rest of the budget, or of all schemes."""
        return min(self.config.max_evaluations, self.space.size) - len(self.values)

    def new(self, schemes: Iterable[Scheme]) -> list[Scheme]:
        """Those never evaluated, once each."""
        return [scheme for scheme in dict.fromkeys(schemes) if scheme not in self.values]

    def affords(self, schemes: Sequence[Scheme]) -> bool:
        return len(self.new(schemes)) <= self.left

    def evaluate(self, schemes: Sequence[Scheme], *, cache: bool = True) -> list[float]:
        """Objectives of the schemes; those seen before are not asked for again, unless cache is off."""
        asked = self.new(schemes) if cache else list(schemes)
        if asked:
            values = checked_values(asked, self.reward(list(asked)))
            self.calls += len(asked)
            for scheme, value in zip(asked, values, strict=True):
                self.values.setdefault(scheme, value)
            candidates = asked if self.best is None else [self.best, *asked]
            self.best = min(candidates, key=self.order)
        return [self.objective(scheme) for scheme in schemes]

    def objective(self, scheme: Scheme) -> float:
        return self.config.objective(scheme, self.values[scheme])

    def order(self, scheme: Scheme) -> tuple[float, int, str]:
        """Sorts the best scheme first: highest objective, then fewest connections, then lexicographic."""
        return -self.objective(scheme), scheme.connected, str(scheme)

    def record(self, schemes: Sequence[Scheme], **details: Any) -> None:
        """Close a step: what was proposed, what it was worth, and the best scheme up to now."""
        entry = {
            "step": len(self.history),
            "schemes": [str(scheme) for scheme in schemes],
            "values": [self.values[scheme] for scheme in schemes],
            "objectives": [self.objective(scheme) for scheme in schemes],
            "evaluations": len(self.values),
            "best_scheme": str(self.best),
            "best_objective": self.objective(self.best),
        }
        self.history.append(entry | details)

    def try_all(self, schemes: Sequence[Scheme]) -> None:
        """Evaluate and record as one step as many of the schemes as the budget allows."""
        affordable = self.new(schemes)[: self.left]
        if affordable:
            self.evaluate(affordable)
            self.record(affordable)

    def unseen(self, count: int, generator: torch.Generator) -> list[Scheme]:
        """Up to count distinct schemes never evaluated, drawn uniformly."""
        if self.space.size < 2 * (len(self.values) + count):  # too few are left to find them by chance
            rest = self.new(self.space.all())
            chosen = torch.randperm(len(rest), generator=generator)[:count]
            return [rest[i] for i in chosen.tolist()]
        drawn: dict[Scheme, None] = {}  # an ordered set
        while len(drawn) < count:
            scheme = self.space.random(generator)
            if scheme not in self.values:
                drawn[scheme] = None
        return list(drawn)


def flip(scheme: Scheme, block: int) -> Scheme:
    """The scheme with one bit changed."""
    bits = list(scheme.bits)
    bits[block] = not bits[block]
    return Scheme(tuple(bits), scheme.stages)


def checked_values(schemes: Sequence[Scheme], values: Any) -> list[float]:
    """The reward's answer as floats, one per scheme.

    Raises:
        ValueError: if a value is missing, too many, not a number, or not finite.
    """
    values = values.tolist() if hasattr(values, "tolist") else values
    one_each = isinstance(values, Sequence) and not isinstance(values, str) and len(values) == len(schemes)
    check("the reward's answer", values, one_each, f"one number per scheme, {len(schemes)} in all")
    numbers = [value.item() if hasattr(value, "item") else value for value in values]
    for scheme, value in zip(schemes, numbers, strict=True):
        finite = isinstance(value, Real) and math.isfinite(value)
        check(f"the reward of scheme {scheme}", value, finite, "a finite number")
    return [float(value) for value in numbers]


def reinforce(evaluations: Evaluations, generator: torch.Generator) -> Scheme | None:
    """EAN's controller; the records of its steps also hold what `Controller.update` returns.

    Where a sample breaks a constraint, the scheme nearest to it is evaluated, and the controller learns from that one.
    Steps end early when a batch would break the budget. The policy's most probable scheme is evaluated last,
    in a record of its own, where the budget allows. Without the correction "keep_best" the result is the most probable
    scheme that was evaluated; without "cache" a scheme is evaluated whenever it is sampled.
    """
    config, space = evaluations.config, evaluations.space
    cache = "cache" in evaluations.corrections
    controller = controller_type(evaluations.corrections)(space.blocks, config, config.seed)
    for _ in range(config.steps):
        sampled = controller.sample().tolist()
        schemes = [space.project(bits, generator) for bits in sampled]
        if not evaluations.affords(schemes):
            break
        objectives = evaluations.evaluate(schemes, cache=cache)
        bits = torch.tensor([scheme.bits for scheme in schemes])
        learned = controller.update(bits, torch.tensor(objectives, dtype=torch.float64))
        evaluations.record(schemes, **learned)
    p = controller.probabilities()
    mode = space.most_probable(p.tolist())
    if evaluations.affords([mode]):
        evaluations.evaluate([mode])
        evaluations.record([mode], logits=controller.logits().tolist(), probabilities=p.tolist())
    if "keep_best" in evaluations.corrections:
        return None
    return most_probable(controller, evaluations.values)


def most_probable(controller: Controller, schemes: Iterable[Scheme]) -> Scheme:
    """The scheme that the policy gives the highest probability; of equal ones that with the fewest connections."""
    ordered = sorted(schemes, key=lambda scheme: (scheme.connected, str(scheme)))
    bits = torch.tensor([scheme.bits for scheme in ordered])
    log_probs = controller.log_probs(bits).sum(dim=1)
    return ordered[int(log_probs.argmax())]


def random_search(evaluations: Evaluations, generator: torch.Generator) -> None:
    """Distinct schemes, uniformly."""
    while evaluations.left > 0:
        count = min(CHUNK, evaluations.left)
        evaluations.try_all(evaluations.unseen(count, generator))


def greedy(evaluations: Evaluations, generator: torch.Generator) -> None:
    """Steepest ascent by single blocks: from none, connect or disconnect the block that helps most.

    Where no block helps it starts anew from a random scheme.
    """
    start = evaluations.space.scheme([])
    while evaluations.left > 0:
        evaluations.try_all([start])
        climb(evaluations, start)
        new_starts = evaluations.unseen(1, generator)
        if new_starts:
            start = new_starts[0]


def climb(evaluations: Evaluations, current: Scheme) -> None:
    """Go to the best neighbour as long as it is better and the budget lasts."""
    while evaluations.left > 0:
        neighbours = [flip(current, block) for block in evaluations.space.free]
        neighbours = [scheme for scheme in neighbours if scheme in evaluations.space]
        evaluations.try_all(neighbours)
        known = [scheme for scheme in neighbours if scheme in evaluations.values]
        best = min([current, *known], key=evaluations.order)
        if best == current:
            return
        current = best


def evolution(evaluations: Evaluations, generator: torch.Generator) -> None:
    """Aging evolution (Real et al. 2019): the best of a random few has an offspring with one bit flipped.

    The oldest dies. The flip is drawn from those that give a new scheme; where there is none, the child is random.
    """
    config = evaluations.config
    first = evaluations.unseen(min(config.population, evaluations.left), generator)
    evaluations.try_all(first)
    alive = deque(first, maxlen=config.population)
    while evaluations.left > 0:
        children: list[Scheme] = []
        for _ in range(min(config.samples, evaluations.left)):
            rivals = torch.randperm(len(alive), generator=generator)[: config.tournament].tolist()
            parent = min((alive[i] for i in rivals), key=evaluations.order)
            children.append(mutate(evaluations, parent, children, generator))
        evaluations.try_all(children)
        alive.extend(children)


def mutate(evaluations: Evaluations, parent: Scheme, siblings: Sequence[Scheme], generator: torch.Generator) -> Scheme:
    """The parent with one bit flipped that gives a scheme not known yet; a random one where there is none."""
    for block in torch.randperm(evaluations.space.blocks, generator=generator).tolist():
        child = flip(parent, block)
        if child in evaluations.space and child not in evaluations.values and child not in siblings:
            return child
    return evaluations.unseen(1, generator)[0]


def tpe(evaluations: Evaluations, generator: torch.Generator) -> None:
    """Tree-structured Parzen estimator (Bergstra et al. 2011), by optuna; its own seed is config.seed.

    Where it proposes more connections than are allowed, it is told the objective of the scheme with some dropped.
    """
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces each new study
    sampler = optuna.samplers.TPESampler(seed=evaluations.config.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    optuna.logging.set_verbosity(verbosity)
    space = evaluations.space
    repeated = 0
    while evaluations.left > 0:
        if repeated >= PATIENCE:  # the estimator has settled: give it something new
            unseen = evaluations.unseen(1, generator)[0]
            study.enqueue_trial({f"block {block}": unseen.bits[block] for block in space.free})
        trial = study.ask()
        bits = [False] * space.blocks
        for block in space.free:
            bits[block] = trial.suggest_categorical(f"block {block}", (False, True))
        scheme = space.project(bits, generator)
        repeated = repeated + 1 if scheme in evaluations.values else 0
        evaluations.try_all([scheme])
        study.tell(trial, evaluations.objective(scheme))


def exhaustive(evaluations: Evaluations, generator: torch.Generator) -> None:
    """Every scheme there is.

    Raises:
        ValueError: if there are more than 2^16, or than the budget.
    """
    space = evaluations.space
    limit = min(EXHAUSTIVE_LIMIT, evaluations.config.max_evaluations)
    if space.size > limit:
        advice = "choose another method"
        if space.size <= EXHAUSTIVE_LIMIT:
            advice += f", or budget={space.size}"
        many = f"stages {space.stages} have 2^{space.blocks} = {2**space.blocks} schemes"
        if space.size < 2**space.blocks:
            many += f", {space.size} of them within the constraints"
        raise ValueError(f"{many}, but an exhaustive search may evaluate {limit}: {advice}")
    schemes = list(space.all())
    for start in range(0, len(schemes), CHUNK):
        evaluations.try_all(schemes[start : start + CHUNK])


METHODS: dict[str, Callable[[Evaluations, torch.Generator], Scheme | None]] = {
    "reinforce": reinforce,
    "random": random_search,
    "greedy": greedy,
    "evolution": evolution,
    "tpe": tpe,
    "exhaustive": exhaustive,
}


def search(
    reward: Reward, stages: Sequence[int], config: SearchConfig, *, corrections: Iterable[str] | None = None
) -> SearchResult:
    """Find the connection scheme with the highest objective.

    Args:
        reward: value of each of a list of schemes (validation accuracy, percent), the same whenever it is
            asked. It is not asked for a scheme twice, unless the correction "cache" is off (official mode).
            What lies between 0 and 1, such as an F1 or an mIoU, is to be given in percent, or weighed by
            ``SearchConfig(lambda_val=100)``: connecting all blocks costs as much as `lambda_spa` points in percent.
        stages: blocks per stage, such as (3, 4, 6, 3).
        config: method, budget, weights, constraints, seed.
        corrections: for an ablation of the method "reinforce": the names of the `SWITCHES` that are on. None: all of
            them in the mode "corrected", none in the mode "official".

    Returns:
        The final scheme and the record. Each entry of its history has step, schemes, values, objectives (one
        per scheme proposed), evaluations (distinct, up to now), best_scheme, best_objective; and, for the
        method "reinforce", what `Controller.update` returns.

    Raises:
        ValueError: if stages are not positive integers, the reward gives anything but one finite number per
            scheme, a correction is unknown, the constraints do not fit the stages or leave no scheme, or an exhaustive
            search is larger than its budget.

    Warns:
        UserWarning: if the reward seems to be no percentage, and sparsity outweighs it (see `scale_warning`).
    """
    space = Space(stages, config.fixed, config.max_connected)
    if corrections is not None:
        corrections = ordered_corrections(corrections)
        active = frozenset(corrections)
    else:
        active = frozenset(SWITCHES if config.mode == "corrected" else ())
    evaluations = Evaluations(reward, space, config, active)
    generator = torch.Generator().manual_seed(config.seed)
    run_method = METHODS[config.method]
    final = run_method(evaluations, generator) or evaluations.best
    values = {str(scheme): value for scheme, value in evaluations.values.items()}
    warning = scale_warning(list(values.values()), config)
    if warning:
        warnings.warn(warning, stacklevel=2)
    return SearchResult(
        scheme=final,
        objective=evaluations.objective(final),
        value=evaluations.values[final],
        sparsity=final.sparsity,
        method=config.method,
        evaluations=len(values),
        calls=evaluations.calls,
        constant_reward=len(values) > 1 and len(set(values.values())) == 1,
        values=values,
        history=evaluations.history,
        config=config,
        corrections=corrections,
    )


def scale_warning(values: list[float], config: SearchConfig) -> str | None:
    """What to say where the reward seems to be no percentage, so that the price of connections outweighs it.

    An F1 score between 0 and 1 would end with no block connected, whatever it says. Percentages that lie close
    together are no mistake; and a reward that is the same for every scheme has a flag of its own,
    `SearchResult.constant_reward`.
    """
    low, high = min(values), max(values)
    largest = config.lambda_val * max(abs(low), abs(high))
    span = config.lambda_val * (high - low)
    if largest > 1 or not 0 < span < config.lambda_spa:
        return None
    return (
        f"the reward's values lie between {low:.3g} and {high:.3g}, less apart than connecting all blocks costs, "
        f"lambda_spa = {config.lambda_spa:g}: sparsity decides more than the reward. If they are fractions, give "
        "percentages, scale them by lambda_val, or choose a smaller lambda_spa"
    )


def ordered_corrections(names: Iterable[str]) -> tuple[str, ...]:
    """The names in the order of `SWITCHES`.

    Raises:
        ValueError: if one is unknown.
    """
    names = set(names)
    for name in sorted(names):
        check_choice("correction", name, SWITCHES)
    return tuple(name for name in SWITCHES if name in names)
