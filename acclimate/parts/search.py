"""Update without gradients: prompts of a transformer, sought by an evolution strategy (FOA)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.errors import InputError
from acclimate.parts.checks import not_negative
from acclimate.randomness import key, normal

if TYPE_CHECKING:
    from cmaes import CMA


@dataclass(frozen=True)
class CovarianceAdaptation:
    """CMA-ES (Hansen 2016, *The CMA evolution strategy: A tutorial*) on prompts of a transformer.

    Each step tries candidates, by forward passes alone, and keeps the best: the prompts that are
    used are one of them. Needs the package cmaes: ``pip install 'acclimate[foa]'``.
    """

    prompts: int = 3
    """Number of prompts: tokens that the blocks attend to beside the image's own."""
    population: int = 28
    """Candidates of a step; the best of the last step is one of them."""
    spread: float = 1.0
    """σ, standard deviation of the first candidates."""
    forward_only: ClassVar[bool] = True

    def check(self) -> None:
        """Refuse settings that cannot be meant."""
        if not 1 <= self.prompts <= 100:
            raise InputError(f"prompts must be 1 to 100, not {self.prompts}.")
        if not 4 <= self.population <= 10_000:
            raise InputError(f"population must be 4 to 10000, not {self.population}.")
        not_negative("spread", self.spread)
        if self.spread == 0:
            raise InputError("spread must be above 0: candidates would all be the same.")

    def build(self, prompts: Tensor, seed: int) -> "Search":
        """The search for the values of a tensor.

        Raises:
            InputError: the package cmaes is missing.
        """
        return Search(prompts, self.population, self.spread, seed)


class Search:
    """CMA-ES for the values of a tensor; between steps all that it knows is in tensors.

    Random numbers depend on the seed and the number of the generation alone, so that no generator's
    state has to be kept.

    Args:
        prompts: The tensor, which holds the best candidate of the last step; changed in place.
        population: Number of candidates.
        spread: First standard deviation.
        seed: Of the candidates.

    Attributes:
        state: The strategy's mean, covariance, step size, evolution paths and number of
            generations, by the tensor that they are for, as optimisers have it.

    Raises:
        InputError: the package cmaes is missing.
    """

    def __init__(self, prompts: Tensor, population: int, spread: float, seed: int):
        _cma()
        self.prompts: Tensor = prompts
        self.population: int = population
        self.seed: int = seed
        size = prompts.numel()
        zeros = torch.zeros(size, dtype=torch.float64, device=prompts.device)
        self._tensors: dict[str, Tensor] = {
            "mean": zeros.clone(),
            "covariance": torch.eye(size, dtype=torch.float64, device=prompts.device),
            "step_size": torch.full_like(zeros[0], spread),
            "path_of_steps": zeros.clone(),
            "path_of_covariance": zeros.clone(),
            "generation": torch.zeros((), dtype=torch.int64, device=prompts.device),
        }
        self.state: Mapping[Tensor, dict[str, Tensor]] = {prompts: self._tensors}

    def ask(self) -> tuple["CMA", Float[Tensor, "population prompts width"]]:
        """The strategy as it is now, and a step's candidates; the last is the present value."""
        strategy = self._strategy()
        # Its own ask multiplies the matrices anew for each candidate.
        directions, lengths = strategy._eigen_decomposition()
        numbers = key(self.seed, "search", strategy.generation)
        drawn = normal(numbers, torch.arange(self.population - 1), strategy.dim).double().numpy()
        drawn = strategy.mean + strategy._sigma * (drawn * lengths) @ directions.T
        candidates = torch.from_numpy(drawn).to(self.prompts).view(-1, *self.prompts.shape)
        return strategy, torch.cat([candidates, self.prompts.detach()[None]])

    @torch.no_grad()
    def tell(
        self,
        strategy: "CMA",
        candidates: Float[Tensor, "population prompts width"],
        fitness: Float[Tensor, " population"],
    ) -> int:
        """Learn from what candidates are worth, the less the better, and keep the best.

        Args:
            strategy: From `ask`.
            candidates: From `ask`.
            fitness: Of each; one that is not finite counts as the worst. At least one is finite.

        Returns:
            The place of the best candidate.
        """
        worth = fitness.double().nan_to_num(torch.inf, torch.inf, torch.inf).cpu().numpy()
        points = candidates.flatten(1).double().cpu().numpy()
        best = int(worth.argmin())
        strategy.tell(list(zip(points, worth.tolist())))
        found = (
            *(strategy._mean, strategy._C, strategy._sigma),
            *(strategy._p_sigma, strategy._pc, strategy._g),
        )
        for tensor, value in zip(self._tensors.values(), found, strict=True):
            tensor.copy_(torch.as_tensor(value))
        self.prompts.copy_(candidates[best])
        return best

    def _strategy(self) -> "CMA":
        """The package's strategy, with what is in the tensors."""
        now = {name: tensor.cpu().numpy().copy() for name, tensor in self._tensors.items()}
        sigma, covariance = float(now["step_size"]), now["covariance"]
        strategy = _cma()(now["mean"], sigma, cov=covariance, population_size=self.population)
        # It has no arguments for these.
        strategy._p_sigma, strategy._pc = now["path_of_steps"], now["path_of_covariance"]
        strategy._g = int(now["generation"])
        return strategy


def _cma() -> type["CMA"]:
    try:
        from cmaes import CMA
    except ImportError as error:
        raise InputError(
            "prompts are sought with the package cmaes, which is missing; install 'acclimate[foa]'."
        ) from error
    return CMA
