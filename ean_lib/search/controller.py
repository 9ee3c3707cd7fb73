"""The controller: a policy over connection schemes, trained by REINFORCE (Williams 1992).

A policy of independent Bernoulli bits samples a few schemes per step; each is rewarded; the policy follows
the gradient of the expected reward. Three things are added, as in EAN: a moving-average baseline, a bonus for
novel schemes (random network distillation, Burda et al. 2019), and one clipped step on a replayed batch
(Schulman et al. 2017). The authors' code departs from this in ways that can be measured: every departure is a
switch of `ControllerConfig`; `mode="official"` reproduces all of them, `mode="corrected"`, the default, none.

Everything runs on the CPU in float64: the controller is tiny, and its results then repeat to the bit.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from ean_lib.checks import Count, Fraction, NotNegative, Whole, check_options

OFFICIAL_CONSTANT = 54.0  # percent; the authors subtract it from every reward
OFFICIAL_TEMPERATURE = 5.0
MAX_LOG_ODDS = 5.0  # where explore_tanh is on: no probability leaves [0.0067, 0.9933]
RND_WIDTH = 32


@dataclass(frozen=True)
class ControllerConfig:
    """Options of the controller. A field that is None takes the value of the mode (see `resolved`)."""

    # "corrected", or "official" for the behaviour of the authors' code; sets every field below that is None.
    mode: Literal["corrected", "official"] = "corrected"
    # Schemes sampled per step.
    samples: Count = 3
    # Step size of Adam, for the policy.
    learning_rate: NotNegative | None = None
    # Share of the old squared gradients that Adam keeps, for the policy. One block can be worth 20 percent
    # and the next 0.1: the lower 0.9 forgets the large gradients soon enough to see the small ones.
    adam_beta2: Fraction | None = None
    # Step size of Adam, for the learned network of the novelty bonus.
    rnd_learning_rate: NotNegative = 0.05
    # Share of the old baseline kept at each step of its moving average.
    baseline_decay: Annotated[float, Interval(ge=0, le=1)] = 0.95
    # Weight of the novelty bonus in the reward; 0 turns it off.
    lambda_rnd: NotNegative | None = None
    # Weight of the policy's entropy in what is maximised, percent per nat; 0 turns it off.
    entropy_weight: NotNegative | None = None
    # First step, counted from 0, that also replays an earlier batch.
    replay_from: Whole = 10
    # Batches kept for replay; 0 turns replay off.
    replay_size: Whole = 30
    # How far the probability ratio may move from 1 on a replayed batch.
    replay_clip: NotNegative = 0.1
    # Weight of the replayed batch's loss.
    replay_weight: NotNegative = 0.1
    # 1. Keep each sampled scheme whole (official: bits of different samples mix in replay and bonus).
    stack_samples: bool | None = None
    # 2. Each scheme has its own novelty bonus (official: all share the batch's sum).
    per_sample_bonus: bool | None = None
    # 3. Replayed rewards include the bonus, as the baseline does (official: they lack it).
    replay_with_bonus: bool | None = None
    # 4. Clip the ratio of whole schemes, one by one (official: per bit, detached, so clipping stops nothing).
    scheme_ratio: bool | None = None
    # 5. Take the advantage before the baseline has seen this step's rewards (official: after).
    advantage_before_baseline: bool | None = None
    # 6. Learn one logit per block (official: a network fed with zeros, a table in disguise).
    logit_table: bool | None = None
    # 7. Bound the log-odds by 5·tanh, so that sampling never dies out (official: written, never applied).
    explore_tanh: bool | None = None
    # 8. Leave out the constant 54 (official: subtract it from every reward; the baseline cancels it).
    drop_constant: bool | None = None
    # 9. Never evaluate a scheme twice (official: each sample is evaluated anew).
    cache: bool | None = None
    # 10. End with the best scheme evaluated (official code ends with none; read here: the policy's most probable one).
    keep_best: bool | None = None

    def __post_init__(self) -> None:
        check_options(self)

    def resolved(self) -> Self:
        """This configuration with every None replaced by its mode's value."""
        missing = [name for name in BY_MODE if getattr(self, name) is None]
        return replace(self, **{name: BY_MODE[name][self.mode == "corrected"] for name in missing})


SWITCHES = tuple(field.name for field in fields(ControllerConfig) if field.type == bool | None)  # the ten above
# What a field left at None becomes: (official, corrected). Our numbers were tuned on tables of rewards.
BY_MODE: dict[str, tuple[Any, Any]] = dict.fromkeys(SWITCHES, (False, True)) | {
    "learning_rate": (0.05, 0.1),
    "adam_beta2": (0.999, 0.9),
    "lambda_rnd": (1.0, 0.1),
    "entropy_weight": (0.0, 0.0),
}


def perceptron(widths: Iterable[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between, with torch's usual initialisation drawn from an explicit generator."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)
        for parameter in linear.parameters():
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: so few numbers gain nothing from more, and lose seconds on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Novelty:
    """Random network distillation: how badly a learned network predicts a fixed random one at a scheme.

    e(s) = ‖f(s) − g(s)‖², with f fixed and g trained to match f on the schemes sampled so far: small for what
    has been seen, large for what has not. The scale of e is arbitrary, so, after Burda et al. (2019), the
    bonus is e(s) / σ, σ the standard deviation of all errors met so far: a typical difference in novelty
    between two early schemes is worth lambda_rnd percent, and the bonus fades as g learns. It is not
    centred: the baseline does that. The authors' bonus is Σ e over the batch, the same for every scheme.
    """

    def __init__(self, blocks: int, config: ControllerConfig, generator: torch.Generator) -> None:
        self.config = config.resolved()
        self.fixed = perceptron((blocks, RND_WIDTH, RND_WIDTH, 4 * blocks), generator).requires_grad_(False)
        self.learned = perceptron((blocks, RND_WIDTH, 4 * blocks), generator)
        self.optimizer = torch.optim.Adam(self.learned.parameters(), lr=self.config.rnd_learning_rate)
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def errors(self, schemes: Tensor) -> Tensor:
        """Squared distance between the two embeddings: (n, m) bool -> (n,)."""
        x = schemes.double()
        return (self.fixed(x) - self.learned(x)).square().sum(dim=1)

    def bonus(self, schemes: Tensor) -> Tensor:
        """The bonus of each scheme, (n, m) bool -> (n,); then one training step of the learned network."""
        errors = self.errors(schemes)
        self.optimizer.zero_grad()
        errors.sum().backward()
        self.optimizer.step()
        errors = errors.detach()
        if not self.config.per_sample_bonus:
            return errors.sum().expand(len(schemes))
        for error in errors.tolist():  # Welford's running variance
            self.count += 1
            delta = error - self.mean
            self.mean += delta / self.count
            self.squares += delta * (error - self.mean)
        deviation = math.sqrt(self.squares / self.count)
        return errors / deviation if deviation > 0 else torch.zeros_like(errors)


class Controller:
    """Policy π(s) = Π_l p_l^{s_l} (1 − p_l)^{1 − s_l}, with p_l = sigmoid(z_l), and its training.

    Args:
        blocks: m, the number of blocks.
        config: see `ControllerConfig`.
        seed: of the initial weights, of sampling, of the bonus's networks and of replay, each its own stream,
            so that turning one part off leaves the others' random numbers as they were.
    """

    def __init__(self, blocks: int, config: ControllerConfig, seed: int = 0) -> None:
        self.config = config.resolved()
        streams = [torch.Generator().manual_seed(4 * seed + stream) for stream in range(4)]
        self.sampling, self.replaying = streams[0], streams[1]
        self.table = torch.zeros(blocks, dtype=torch.float64, requires_grad=True)
        self.network = perceptron((20, 50, 2 * blocks), streams[2])
        parameters = [self.table] if self.config.logit_table else list(self.network.parameters())
        self.optimizer = torch.optim.Adam(parameters, lr=self.config.learning_rate, betas=(0.9, self.config.adam_beta2))
        self.novelty = Novelty(blocks, self.config, streams[3])
        self.memory: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=self.config.replay_size)
        self.baseline: float | None = None
        self.steps = 0

    def logits(self) -> Tensor:
        """z, (m,): the log-odds of connecting each block.

        The official form has two outputs per block and a two-way softmax, whose log-odds is their difference.
        Its input is zero, so the first layer's weights never get a gradient: it is a table all the same.
        """
        if self.config.logit_table:
            z = self.table
        else:
            two_way = self.network(torch.zeros(20, dtype=torch.float64)) / OFFICIAL_TEMPERATURE
            off, on = two_way.view(-1, 2).unbind(dim=1)
            z = on - off
        return MAX_LOG_ODDS * (z / MAX_LOG_ODDS).tanh() if self.config.explore_tanh else z

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

    def as_remembered(self, schemes: Tensor) -> Tensor:
        """The schemes as replay and bonus see them, (n, m) -> (n, m).

        The authors hold a list of m tensors, one per block; they concatenate it block after block and view
        the result as schemes, which mixes the samples' bits. Their first sample is drawn apart and stays
        whole.
        """
        if self.config.stack_samples:
            return schemes
        return torch.cat([schemes[:1], schemes[1:].T.reshape_as(schemes[1:])])

    def policy_loss(self, schemes: Tensor, advantages: Tensor) -> Tensor:
        """REINFORCE: −1/n Σ_i A_i log π(s_i) − w_H · H(π).

        Without entropy its gradient in the logits is 1/n Σ_i A_i (p − s_i).
        """
        log_pi = self.log_probs(schemes).sum(dim=1)
        return -(advantages * log_pi).mean() - self.config.entropy_weight * self.entropy()

    def replay_loss(self, schemes: Tensor, old_log_probs: Tensor, advantages: Tensor) -> Tensor:
        """Clipped loss of an earlier batch: −w · 1/n Σ_i min(r_i A_i, clip(r_i, 1 − ε, 1 + ε) A_i).

        r_i = π(s_i) / π_old(s_i) is the ratio of the whole scheme. Where r_i has left the interval in the
        direction that A_i asks for, the minimum is the clipped, constant term and the gradient is zero. The
        authors detach a ratio of each bit, multiply it by the bit's log-probability, and take the minimum of
        the two batch sums: a reweighted REINFORCE in which clipping stops nothing.
        """
        epsilon = self.config.replay_clip
        log_probs = self.log_probs(schemes)
        if self.config.scheme_ratio:
            ratio = (log_probs - old_log_probs).sum(dim=1).exp()
            surrogate = ratio * advantages
            clipped = ratio.clamp(1 - epsilon, 1 + epsilon) * advantages
            return -self.config.replay_weight * torch.min(surrogate, clipped).mean()
        ratio = (log_probs - old_log_probs).exp().detach()
        surrogate = ((ratio * log_probs).sum(dim=1) * advantages).mean()
        clipped = ((ratio.clamp(1 - epsilon, 1 + epsilon) * log_probs).sum(dim=1) * advantages).mean()
        return -self.config.replay_weight * torch.min(surrogate, clipped)

    @one_thread()
    def update(self, schemes: Tensor, objectives: Tensor) -> dict[str, Any]:
        """Learn from one step's schemes, and say what happened.

        Args:
            schemes: (n, m) bool, as sampled.
            objectives: (n,) float, λ_val·value + λ_spa·sparsity of each, percent.

        Returns:
            Plain lists and floats, as of before the update: logits and probabilities (m,); rewards and bonus
            (n,); the baseline and advantages (n,) that were used; loss, replay_loss (None without replay),
            entropy.
        """
        config = self.config
        record: dict[str, Any] = {"logits": self.logits().tolist(), "probabilities": self.probabilities().tolist()}
        record["entropy"] = self.entropy().item()
        remembered = self.as_remembered(schemes)
        # Old log-probabilities belong to the schemes as sampled: in official mode they do not match the mixed
        # bits.
        old_log_probs = self.log_probs(schemes).detach()
        objectives = objectives.double() - (0.0 if config.drop_constant else OFFICIAL_CONSTANT)
        bonus = torch.zeros_like(objectives)
        if config.lambda_rnd > 0:
            bonus = config.lambda_rnd * self.novelty.bonus(remembered)
        rewards = objectives + bonus
        self.memory.append((remembered, old_log_probs, rewards if config.replay_with_bonus else objectives))

        mean = rewards.mean().item()
        before = mean if self.baseline is None else self.baseline
        self.baseline = config.baseline_decay * before + (1 - config.baseline_decay) * mean
        used = before if config.advantage_before_baseline else self.baseline
        advantages = rewards - used
        loss = self.policy_loss(schemes, advantages)
        self.step(loss)

        replay_loss = None
        if self.steps >= config.replay_from and self.memory:
            chosen = torch.randint(len(self.memory), (), generator=self.replaying).item()
            replayed, replayed_log_probs, replayed_rewards = self.memory[chosen]
            replay_loss = self.replay_loss(replayed, replayed_log_probs, replayed_rewards - self.baseline)
            self.step(replay_loss)
            replay_loss = replay_loss.item()
        self.steps += 1
        seen = {"rewards": rewards.tolist(), "bonus": bonus.tolist(), "baseline": used}
        learned = {"advantages": advantages.tolist(), "loss": loss.item(), "replay_loss": replay_loss}
        return record | seen | learned

    def step(self, loss: Tensor) -> None:
        """One step of Adam on the policy."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
