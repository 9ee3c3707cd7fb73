"""The controller: a policy over connection schemes, trained by REINFORCE (Williams 1992).

A policy of independent Bernoulli bits samples a few schemes per step; each is rewarded; the policy follows the gradient
of the expected reward. Three things are added, as in EAN: a moving-average baseline, a bonus for novel schemes
(:mod:`ean_lib.search.novelty`), and one clipped step on a replayed batch (Schulman et al. 2017). What the authors' code
does differently is in :mod:`ean_lib.search.departures`.

Everything runs on the CPU in float64: the controller is tiny, and its results then repeat to the bit.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from ean_lib.checks import Count, Fraction, NotNegative, Whole, check_options
from ean_lib.search.novelty import Novelty

MAX_LOG_ODDS = 5.0  # no probability leaves [0.0067, 0.9933], so that sampling never dies out


@dataclass(frozen=True)
class ControllerConfig:
    """Options of the controller. A number that is None takes the value of the mode (see `resolved`)."""

    # The mode: "corrected", or "official" for the step sizes of the authors' code and, in a search, for everything else
    # that it does differently.
    mode: Literal["corrected", "official"] = "corrected"
    # The number of schemes sampled per step.
    samples: Count = 3
    # The step size of Adam, for the policy.
    learning_rate: NotNegative | None = None
    # The share of the old squared gradients that Adam keeps, for the policy. One block can be worth 20 percent
    # and the next 0.1: the lower 0.9 forgets the large gradients soon enough to see the small ones.
    adam_beta2: Fraction | None = None
    # The step size of Adam, for the learned network of the novelty bonus.
    rnd_learning_rate: NotNegative = 0.05
    # The share of the old baseline kept at each step of its moving average.
    baseline_decay: Annotated[float, Interval(ge=0, le=1)] = 0.95
    # The weight of the novelty bonus in the reward; 0 turns it off.
    lambda_rnd: NotNegative | None = None
    # The weight of the policy's entropy in what is maximised, percent per nat; 0 turns it off.
    entropy_weight: NotNegative | None = None
    # The first step, counted from 0, that also replays an earlier batch.
    replay_from: Whole = 10
    # The number of batches kept for replay; 0 turns replay off.
    replay_size: Whole = 30
    # How far the probability ratio may move from 1 on a replayed batch.
    replay_clip: NotNegative = 0.1
    # The weight of the replayed batch's loss.
    replay_weight: NotNegative = 0.1

    def __post_init__(self) -> None:
        check_options(self)

    def resolved(self) -> Self:
        """This configuration with every None of `BY_MODE` replaced by its mode's value."""
        defaults = BY_MODE[self.mode]
        missing = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **missing)


# What a number left at None becomes. Ours were tuned on tables of rewards.
BY_MODE: dict[str, dict[str, float]] = {
    "official": {"learning_rate": 0.05, "adam_beta2": 0.999, "lambda_rnd": 1.0, "entropy_weight": 0.0},
    "corrected": {"learning_rate": 0.1, "adam_beta2": 0.9, "lambda_rnd": 0.1, "entropy_weight": 0.0},
}


class Batch(NamedTuple):
    """One step's schemes, as replay remembers them."""

    schemes: Tensor  # (n, m) bool
    log_probs: Tensor  # (n, m), of each bit under the policy that sampled it
    rewards: Tensor  # (n,)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: so few numbers gain nothing from more, and lose seconds on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Controller:
    """Policy π(s) = Π_l p_l^{s_l} (1 − p_l)^{1 − s_l}, with p_l = sigmoid(z_l), and its training.

    Args:
        blocks: m, the number of blocks.
        config: see `ControllerConfig`.
        seed: of sampling, of replay, and of the initial weights, each its own stream, so that turning one part off
            leaves the others' random numbers as they were.
    """

    novelty_type = Novelty

    def __init__(self, blocks: int, config: ControllerConfig, seed: int = 0) -> None:
        self.config = config.resolved()
        sampling, replaying, policy, novelty = (torch.Generator().manual_seed(4 * seed + stream) for stream in range(4))
        self.sampling = sampling
        self.replaying = replaying
        betas = (0.9, self.config.adam_beta2)
        self.optimizer = torch.optim.Adam(self.new_policy(blocks, policy), lr=self.config.learning_rate, betas=betas)
        self.novelty = self.novelty_type(blocks, self.config.rnd_learning_rate, novelty)
        self.memory: deque[Batch] = deque(maxlen=self.config.replay_size)
        self.baseline: float | None = None
        self.steps = 0

    def new_policy(self, blocks: int, generator: torch.Generator) -> list[Tensor]:
        """Make the policy, undecided about every block, and return what the optimiser trains."""
        self.table = torch.zeros(blocks, dtype=torch.float64, requires_grad=True)
        return [self.table]

    def unbounded_logits(self) -> Tensor:
        """What the policy has learned, (m,)."""
        return self.table

    def logits(self) -> Tensor:
        """z, (m,): the log-odds of connecting each block, within ±`MAX_LOG_ODDS`."""
        return MAX_LOG_ODDS * (self.unbounded_logits() / MAX_LOG_ODDS).tanh()

    def probabilities(self) -> Tensor:
        """p, (m,): the probability of connecting each block."""
        return self.logits().detach().sigmoid()

    def log_probs(self, schemes: Tensor) -> Tensor:
        """log π of every bit, (n, m) bool -> (n, m); a scheme's log-probability is the sum over its bits."""
        return logsigmoid(torch.where(schemes, self.logits(), -self.logits()))

    def entropy(self) -> Tensor:
        """H(π) = Σ_l −p_l log p_l − (1 − p_l) log(1 − p_l), in nats."""
        z = self.logits()
        return (softplus(z) - z * z.sigmoid()).sum()

    def sample(self) -> Tensor:
        """Draw config.samples schemes, (samples, m) bool."""
        p = self.probabilities()
        draws = torch.rand(self.config.samples, len(p), generator=self.sampling, dtype=torch.float64)
        return draws < p

    def bonus(self, schemes: Tensor) -> Tensor:
        """λ_rnd · novelty of each scheme, (n, m) -> (n,), percent; they are less novel afterwards."""
        if self.config.lambda_rnd == 0:
            return torch.zeros(len(schemes), dtype=torch.float64)
        return self.config.lambda_rnd * self.novelty.bonus(schemes)

    def baseline_for(self, rewards: Tensor) -> float:
        """The baseline that these rewards are compared with: a moving average, which then takes them in."""
        mean = rewards.mean().item()
        before = mean if self.baseline is None else self.baseline
        decay = self.config.baseline_decay
        self.baseline = decay * before + (1 - decay) * mean
        return before

    def remember(self, schemes: Tensor, log_probs: Tensor, objectives: Tensor, bonus: Tensor) -> None:
        """Keep a batch for replay, with the reward that the baseline is made of."""
        self.memory.append(Batch(schemes, log_probs, objectives + bonus))

    def policy_loss(self, schemes: Tensor, advantages: Tensor) -> Tensor:
        """REINFORCE: −1/n Σ_i A_i log π(s_i) − w_H · H(π).

        Without entropy its gradient in the logits is 1/n Σ_i A_i (p − s_i).
        """
        log_pi = self.log_probs(schemes).sum(dim=1)
        return -(advantages * log_pi).mean() - self.config.entropy_weight * self.entropy()

    def replay_loss(self, schemes: Tensor, old_log_probs: Tensor, advantages: Tensor) -> Tensor:
        """Clipped loss of an earlier batch: −w · 1/n Σ_i min(r_i A_i, clip(r_i, 1 − ε, 1 + ε) A_i).

        r_i = π(s_i) / π_old(s_i) is the ratio of the whole scheme. Where r_i has left the interval in the direction
        that A_i asks for, the minimum is the clipped, constant term and the gradient is zero.
        """
        epsilon = self.config.replay_clip
        ratio = (self.log_probs(schemes) - old_log_probs).sum(dim=1).exp()
        surrogate = ratio * advantages
        clipped = ratio.clamp(1 - epsilon, 1 + epsilon) * advantages
        return -self.config.replay_weight * torch.min(surrogate, clipped).mean()

    @one_thread()
    def update(self, schemes: Tensor, objectives: Tensor) -> dict[str, Any]:
        """Learn from one step's schemes, and say what happened.

        Args:
            schemes: (n, m) bool, as sampled.
            objectives: (n,) float, λ_val·value + λ_spa·sparsity of each, percent.

        Returns:
            Plain lists and floats, as of before the update: logits and probabilities (m,); rewards and bonus (n,); the
            baseline and advantages (n,) that were used; loss, replay_loss (None without replay), entropy.
        """
        before = {
            "logits": self.logits().tolist(),
            "probabilities": self.probabilities().tolist(),
            "entropy": self.entropy().item(),
        }
        log_probs = self.log_probs(schemes).detach()
        objectives = objectives.double()
        bonus = self.bonus(schemes)
        rewards = objectives + bonus
        self.remember(schemes, log_probs, objectives, bonus)
        baseline = self.baseline_for(rewards)
        advantages = rewards - baseline

        loss = self.policy_loss(schemes, advantages)
        self.descend(loss)
        replay_loss = self.replay()
        self.steps += 1
        return before | {
            "rewards": rewards.tolist(),
            "bonus": bonus.tolist(),
            "baseline": baseline,
            "advantages": advantages.tolist(),
            "loss": loss.item(),
            "replay_loss": replay_loss,
        }

    def replay(self) -> float | None:
        """One step on a remembered batch, drawn at random, and its loss; None while it is too early for that."""
        if self.steps < self.config.replay_from or not self.memory:
            return None
        drawn = torch.randint(len(self.memory), (), generator=self.replaying).item()
        batch = self.memory[drawn]
        loss = self.replay_loss(batch.schemes, batch.log_probs, batch.rewards - self.baseline)
        self.descend(loss)
        return loss.item()

    def descend(self, loss: Tensor) -> None:
        """One step of Adam on the policy."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
