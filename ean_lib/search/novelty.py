"""A bonus for novel schemes: random network distillation (Burda et al. 2019).

A network g learns to predict a fixed random network f on the schemes that were sampled. Where schemes like this one
have been seen, g predicts well; so its error says how novel a scheme is, without counting.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

RND_WIDTH = 32
MOST_MEAN_BONUS = 10.0  # the bonus of a scheme whose error is the mean, at most; see `Novelty`


def perceptron(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between, with torch's usual initialisation drawn from an explicit generator."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)
        bound = fan_in**-0.5
        for parameter in linear.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Novelty:
    """How badly a learned network predicts a fixed random one at a scheme, in units of its usual spread.

    e(s) = ‖f(s) − g(s)‖², with f fixed and g trained to match f on the schemes sampled so far: small for what has
    been seen, large for what has not. The scale of e is arbitrary, so, after Burda et al. (2019), the bonus is
    e(s) / σ, with σ the standard deviation of all errors met so far: a typical difference in novelty between two early
    schemes is worth λ_rnd percent, and the bonus fades as g learns. It is not centred: the baseline does that.

    σ is never taken to be less than a tenth of the errors' mean. The first two or three errors can agree to a
    thousandth by chance; their deviation then says nothing of how errors differ, and without this floor the first bonus
    was thousands of λ_rnd, and the baseline that it raised hid every reward that came after. Over all schemes, the mean
    error of two new networks is 1.7 to 10 of their deviations (4 to 54 blocks, 600 seeds each): so the floor holds only
    where a small sample misleads, and changes nothing elsewhere. (To wait for more errors instead would bring the bonus
    all at once, above a baseline that knows nothing of it.) With it, no bonus is above 10 + √(n − 1) after n errors,
    since none of n numbers lies more than √(n − 1) deviations above their mean.

    Args:
        blocks: m, the number of blocks.
        learning_rate: step size of Adam, for g.
        generator: draws the initial weights of both networks.
    """

    def __init__(self, blocks: int, learning_rate: float, generator: torch.Generator) -> None:
        self.fixed = perceptron((blocks, RND_WIDTH, RND_WIDTH, 4 * blocks), generator).requires_grad_(False)
        self.learned = perceptron((blocks, RND_WIDTH, 4 * blocks), generator)
        self.optimizer = torch.optim.Adam(self.learned.parameters(), lr=learning_rate)
        # Of all errors met so far: how many, their mean, and the sum of squared distances from it.
        self.count = 0
        self.mean = 0.0
        self.squares = 0.0

    def errors(self, schemes: Tensor) -> Tensor:
        """e, the squared distance between the two embeddings: (n, m) bool -> (n,)."""
        x = schemes.double()
        return (self.fixed(x) - self.learned(x)).square().sum(dim=1)

    def bonus(self, schemes: Tensor) -> Tensor:
        """The bonus of each scheme, (n, m) bool -> (n,); then one training step of the learned network."""
        errors = self.errors(schemes)
        self.optimizer.zero_grad()
        errors.sum().backward()
        self.optimizer.step()
        return self.scaled(errors.detach())

    def scaled(self, errors: Tensor) -> Tensor:
        """e / σ, (n,) -> (n,), where these errors already count; zero as long as all errors are the same."""
        self.note(errors)
        deviation = math.sqrt(self.squares / self.count)
        if deviation == 0:
            return torch.zeros_like(errors)  # one scheme only: there is nothing to be more novel than
        return errors / max(deviation, self.mean / MOST_MEAN_BONUS)

    def note(self, errors: Tensor) -> None:
        """Take the errors into their running mean and variance (Welford 1962)."""
        for error in errors.tolist():
            self.count += 1
            distance = error - self.mean
            self.mean += distance / self.count
            self.squares += distance * (error - self.mean)
