"""Theorem 1 of Sun et al. 2020: when a step on the self-supervised loss lowers the main one.

Let the main loss l_m be convex and β-smooth in the shared parameters θ, and G bound the norm of the
self-supervised loss' gradient. Where ⟨∇l_m, ∇l_s⟩ > ε, a step of ε / (β G²) along −∇l_s lowers l_m;
its proof gives by how much: more than ε² / (2 β G²).
"""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus


@dataclass
class Problem:
    """A linear map θ that two tasks share, each with a fixed linear head of its own."""

    image: Tensor
    """``[images, dim]``: what is to be classified."""
    labels: Tensor
    """``[images]``"""
    head: Tensor
    """``[classes, hidden]``"""
    copies: Tensor
    """``[copies, dim]``: what the self-supervised task is asked about."""
    signs: Tensor
    """``[copies]``: its answers, -1 or 1."""
    direction: Tensor
    """``[hidden]``: its head."""

    def main(self, theta):
        """Mean softmax cross entropy."""
        return cross_entropy(self.image @ theta.T @ self.head.T, self.labels)

    def auxiliary(self, theta):
        """Mean logistic loss."""
        return softplus(-self.signs * (self.copies @ theta.T @ self.direction)).mean()

    def smoothness(self):
        """β. Of softmax cross entropy the Hessian in the logits is diag(p) − p pᵀ ⪯ 1/2.

        In θ it is then at most 1/2 VᵀV ⊗ mean(x xᵀ), whose norm is the product of the factors'.
        """
        second_moment = self.image.T @ self.image / len(self.image)
        heads, images = (torch.linalg.matrix_norm(m, 2) for m in (self.head, second_moment))
        return (heads**2 * images / 2).item()

    def bound(self):
        """G. The logistic loss' slope is at most 1."""
        return (self.direction.norm() * self.copies.norm(dim=1).mean()).item()


def gradients(problem, theta):
    theta = theta.clone().requires_grad_()
    losses = problem.main(theta), problem.auxiliary(theta)
    return [torch.autograd.grad(loss, theta)[0] for loss in losses]


def draw(seed, dim, hidden, classes, images, copies, scale):
    """A problem and parameters; the answers' common sign is the one that does not conflict."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    image = normal(images, dim)
    labels = torch.randint(0, classes, (images,), generator=generator)
    near = image[torch.arange(copies) % images] + 0.5 * normal(copies, dim)
    signs = 2.0 * torch.randint(0, 2, (copies,), generator=generator).double() - 1
    problem = Problem(image, labels, normal(classes, hidden), near, signs, normal(hidden))
    theta = scale * normal(hidden, dim)
    main, auxiliary = gradients(problem, theta)
    if (main * auxiliary).sum() < 0:
        problem.signs = -signs
    return problem, theta


problems = {
    "seed": st.integers(0, 2**31),
    "dim": st.integers(1, 6),
    "hidden": st.integers(1, 5),
    "classes": st.integers(2, 6),
    "images": st.integers(1, 4),
    "copies": st.integers(1, 8),
    "scale": st.floats(0, 3),
}


@settings(deadline=None, max_examples=200)
@given(**problems, share=st.floats(0.01, 1, exclude_max=True), smaller=st.floats(0.01, 1))
def test_the_step_lowers_the_main_loss(share, smaller, **drawn):
    problem, theta = draw(**drawn)
    main, auxiliary = gradients(problem, theta)
    inner = (main * auxiliary).sum().item()
    epsilon, beta, bound = share * inner, problem.smoothness(), problem.bound()
    assert auxiliary.norm() <= bound * (1 + 1e-12)
    promised = epsilon**2 / (2 * beta * bound**2)
    assume(inner > 0 and promised > 1e-10)  # else rounding could hide it
    before = problem.main(theta)
    after = problem.main(theta - epsilon / (beta * bound**2) * auxiliary)
    assert after < before
    assert before - after > promised * (1 - 1e-9) - 1e-14
    # So does every shorter step.
    assert problem.main(theta - smaller * epsilon / (beta * bound**2) * auxiliary) < before


@settings(deadline=None, max_examples=50)
@given(**problems, other=st.integers(0, 2**31))
def test_beta_is_a_smoothness_of_the_main_loss(other, **drawn):
    """Gradients at any two points differ by at most β times their distance."""
    problem, theta = draw(**drawn)
    step = torch.randn(theta.shape, generator=torch.Generator().manual_seed(other)).double()
    first, second = (gradients(problem, point)[0] for point in (theta, theta + step))
    assert (first - second).norm() <= problem.smoothness() * step.norm() * (1 + 1e-9)


def scalar(images, labels, sign):
    """One parameter: the logits of an image x are 0 and θ x; the copy is 1."""
    return Problem(
        torch.tensor(images).double()[:, None],
        torch.tensor(labels),
        torch.tensor([[0.0], [1.0]]).double(),
        torch.ones(1, 1).double(),
        torch.tensor([sign]).double(),
        torch.ones(1).double(),
    )


@pytest.mark.parametrize("step", [10.0**-k for k in range(9)])
def test_where_gradients_conflict_every_step_raises_the_main_loss(step):
    problem, theta = scalar([1.0], [1], sign=-1.0), torch.zeros(1, 1).double()
    main, auxiliary = gradients(problem, theta)
    assert main.item() == -0.5 and auxiliary.item() == 0.5
    assert problem.main(theta - step * auxiliary) > problem.main(theta)


def test_the_guarantee_ends_with_the_step():
    """Two images that disagree: the main loss is least at 0, and 50 times the step overshoots."""
    problem, theta = scalar([1.0, 1.0], [0, 1], sign=-1.0), torch.ones(1, 1).double()
    main, auxiliary = gradients(problem, theta)
    epsilon = 0.99 * (main * auxiliary).sum().item()
    assert epsilon > 0
    step = epsilon / (problem.smoothness() * problem.bound() ** 2)
    losses = [problem.main(theta - factor * step * auxiliary) for factor in (0, 1, 50)]
    assert losses[1] < losses[0] < losses[2]
