"""What the authors' code does differently from the method it describes, each departure a class that overrides little.

Found by reading and running their official PyTorch code. A departure is named after the correction that undoes it, and
numbered as chapter 04 numbers them. `OfficialController` has all those that concern the controller;
`controller_type` composes any others, for the ablation between the two. The last two corrections, `cache` and
`keep_best`, are the search's (:mod:`ean_lib.search.methods`).
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ean_lib.checks import check_choice
from ean_lib.search.controller import Controller
from ean_lib.search.novelty import Novelty, perceptron

OFFICIAL_CONSTANT = 54.0  # percent; the authors subtract it from every reward
OFFICIAL_INPUTS = 20
OFFICIAL_HIDDEN = 50
OFFICIAL_TEMPERATURE = 5.0


class MixedSamples(Controller):
    """1. Bits of different samples mix in the replay buffer and in the novelty bonus.

    The authors hold a list of m tensors, one per block; they concatenate it block after block and view the result as
    schemes. Their first sample is drawn apart and stays whole. The log-probabilities in the buffer are of the bits as
    sampled, so they do not match the mixed ones.
    """

    def bonus(self, schemes: Tensor) -> Tensor:
        return super().bonus(mix(schemes))

    def remember(self, schemes: Tensor, log_probs: Tensor, objectives: Tensor, bonus: Tensor) -> None:
        super().remember(mix(schemes), log_probs, objectives, bonus)


def mix(schemes: Tensor) -> Tensor:
    """The schemes as the authors' code re-views them, (n, m) -> (n, m)."""
    first, others = schemes[:1], schemes[1:]
    return torch.cat([first, others.T.reshape_as(others)])


class SummedNovelty(Novelty):
    """The error summed over the batch, and not scaled."""

    def scaled(self, errors: Tensor) -> Tensor:
        return errors.sum().expand(len(errors))


class SummedBonus(Controller):
    """2. Every sample of a batch gets the same bonus, so novelty cannot rank schemes."""

    novelty_type = SummedNovelty


class ReplayWithoutBonus(Controller):
    """3. Replayed rewards lack the bonus that the baseline they are compared with includes."""

    def remember(self, schemes: Tensor, log_probs: Tensor, objectives: Tensor, bonus: Tensor) -> None:
        super().remember(schemes, log_probs, objectives, torch.zeros_like(bonus))


class BitRatio(Controller):
    """4. The "PPO" ratio is of each bit and detached, and the minimum is of two batch sums: clipping stops nothing.

    What remains is a reweighted REINFORCE.
    """

    def replay_loss(self, schemes: Tensor, old_log_probs: Tensor, advantages: Tensor) -> Tensor:
        epsilon = self.config.replay_clip
        log_probs = self.log_probs(schemes)
        ratio = (log_probs - old_log_probs).exp().detach()
        surrogate = ((ratio * log_probs).sum(dim=1) * advantages).mean()
        clipped = ((ratio.clamp(1 - epsilon, 1 + epsilon) * log_probs).sum(dim=1) * advantages).mean()
        return -self.config.replay_weight * torch.min(surrogate, clipped)


class BaselineFirst(Controller):
    """5. The baseline takes in this step's rewards before the advantage is taken."""

    def baseline_for(self, rewards: Tensor) -> float:
        super().baseline_for(rewards)
        return self.baseline


class ZeroFedNetwork(Controller):
    """6. The policy is a network fed with zeros, whose first layer never learns: a table of logits in disguise.

    It has two outputs per block and a two-way softmax, whose log-odds is their difference.
    """

    def new_policy(self, blocks: int, generator: torch.Generator) -> list[Tensor]:
        self.network = perceptron((OFFICIAL_INPUTS, OFFICIAL_HIDDEN, 2 * blocks), generator)
        return list(self.network.parameters())

    def unbounded_logits(self) -> Tensor:
        zeros = torch.zeros(OFFICIAL_INPUTS, dtype=torch.float64)
        two_way = self.network(zeros) / OFFICIAL_TEMPERATURE
        off, on = two_way.view(-1, 2).unbind(dim=1)
        return on - off


class UnboundedLogits(Controller):
    """7. The tanh that would keep the policy exploring is written, but never applied."""

    def logits(self) -> Tensor:
        return self.unbounded_logits()


class SubtractedConstant(Controller):
    """8. A constant is subtracted from every reward; it cancels against the baseline."""

    def update(self, schemes: Tensor, objectives: Tensor) -> dict[str, object]:
        return super().update(schemes, objectives.double() - OFFICIAL_CONSTANT)


# By the correction that undoes it, in the order of the numbers.
DEPARTURES: dict[str, type[Controller]] = {
    "stack_samples": MixedSamples,
    "per_sample_bonus": SummedBonus,
    "replay_with_bonus": ReplayWithoutBonus,
    "scheme_ratio": BitRatio,
    "advantage_before_baseline": BaselineFirst,
    "logit_table": ZeroFedNetwork,
    "explore_tanh": UnboundedLogits,
    "drop_constant": SubtractedConstant,
}
# All corrections: those of the controller, and 9. "cache" (the authors evaluate a scheme again whenever it is sampled)
# and 10. "keep_best" (their code ends with no scheme; read here: with the policy's most probable one).
SWITCHES: tuple[str, ...] = (*DEPARTURES, "cache", "keep_best")


class OfficialController(*DEPARTURES.values()):
    """The controller as the authors' code has it, with every departure. Its step sizes: `ControllerConfig.mode`."""


def controller_type(corrections: Iterable[str]) -> type[Controller]:
    """`Controller` where it is corrected so, and the authors' departures elsewhere.

    Args:
        corrections: names from `SWITCHES`; with all of them it is `Controller`, with none `OfficialController`.

    Raises:
        ValueError: if a name is unknown.
    """
    corrections = set(corrections)
    for name in sorted(corrections):
        check_choice("correction", name, SWITCHES)
    departures = [departure for name, departure in DEPARTURES.items() if name not in corrections]
    if not departures:
        return Controller
    if len(departures) == len(DEPARTURES):
        return OfficialController
    names = "".join(departure.__name__ for departure in departures)
    return type(names, tuple(departures), {})
