"""What bare passes need before the first batch: models, what moves, and the parts by hand."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import by_hand
import torch
from by_hand import ClassStatistics, Drift, PromptSearch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from acclimate.backbones.prompts import add_prompts, blocks_of
from acclimate.backbones.trace import two_images
from acclimate.bundle import Bundle
from acclimate.methods import METHODS, AdapterSettings
from acclimate.objectives import Outcome, Taught
from acclimate.parts.update import select_parameters
from acclimate.runtime.precision import Precision


def kind(part: Any) -> str:
    """The name of a part's class."""
    return type(part).__name__


class Prepared:
    """One method, ready for its first batch; `bare.Bare` says what the arguments are."""

    def __init__(
        self,
        bundle: Bundle,
        name: str,
        settings: AdapterSettings,
        precision: Precision,
        layout: torch.memory_format = torch.channels_last,
        device: str = "cpu",
        statistics: bool = True,
    ):
        self.settings, self.layout, self.device = settings, layout, device
        self.bf16 = precision == "bf16"
        row, preprocessing = METHODS[name], bundle.preprocessing
        model = bundle.twin if row.model == "twin" else bundle.classifier
        own = copy.deepcopy(model).to(device)
        self.model = own.to(memory_format=layout).requires_grad_(False).eval()
        self.source = self._source_statistics(bundle, row.model)
        wanted = settings.objective.source_statistics
        given = {name: self.source[name] for name in wanted}
        objective = settings.objective.build(model, preprocessing, bundle.objective, **given)
        self.objective = objective.requires_grad_(False).eval().to(device)
        self.mean, self.std = (
            torch.tensor(x, device=device)[:, None, None]
            for x in (preprocessing.mean, preprocessing.std)
        )
        self.norms_learn = settings.normalisation.uses_batch
        self.enters = statistics
        self.kept: list[ClassStatistics] = []
        self._exchange_norms()
        self.weigh = by_hand.WEIGHTS[kind(settings.selection)](settings.selection, 10)
        size = preprocessing.size
        self.bank = settings.memory.build((size, size, 3), torch.device(device), 10)
        self.shift: Tensor | None = None
        self.seen, self.loss_average = 0, None
        self._give_teacher()
        self._prepare(2, size)
        self._prepare_parts()

    def _source_statistics(self, bundle: Bundle, model: str) -> dict[str, dict[str, Tensor]]:
        """Statistics of source images, by kind and name."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, tensor in bundle.statistics.items():
            of, sort, rest = name.split(".", 2)
            if of == model:
                found.setdefault(sort, {})[rest] = tensor
        return found

    def _exchange_norms(self) -> None:
        """The batch norm that torch has not."""
        settings = self.settings.normalisation
        for norm in self.model.modules():
            if not isinstance(norm, _BatchNorm):
                continue
            if kind(settings) == "RobustStatistics":
                norm.forward = partial(by_hand.robust, norm, momentum=settings.momentum)
            elif kind(settings) == "BlendedStatistics":
                norm.forward = partial(by_hand.blended, norm, share=settings.share)
            elif kind(settings) == "ClassBalanced":
                self.kept.append(ClassStatistics(norm, settings, 10))
                norm.forward = partial(self.kept[-1], norm)
            elif kind(settings) == "RunningStatistics" and settings.momentum is not None:
                norm.momentum = settings.momentum

    def _give_teacher(self) -> None:
        """Two more models where an objective asks a teacher: that, and the model as it was."""
        self.teacher, self.former = (copy.deepcopy(self.model) for _ in range(2))
        if isinstance(self.objective, Taught):
            self.objective.teacher = lambda _, images: _logits(self.teacher, images)
            self.objective.source = lambda _, images: _logits(self.former, images)

    def _prepare(self, count: int, size: int) -> None:
        """What moves: the parameters that a gradient reaches; then what to go back to."""
        update = self.settings.update
        if kind(update) == "CovarianceAdaptation":
            blocks = blocks_of(self.model.encoder, size)
            example = two_images(self.model.encoder, size)
            prompts = add_prompts(self.model.encoder, blocks, update.prompts, example)
            self.search = PromptSearch(prompts, update, self.settings.seed)
            return
        chosen = {f"model.encoder.{name}": p for name, p in self._chosen(update.parameters)}
        if update.head:
            head = self.model.head.requires_grad_().named_parameters()
            chosen |= {f"model.head.{name}": p for name, p in head}
        if update.auxiliary:
            own = self.objective.requires_grad_().named_parameters()
            chosen |= {f"objective.{name}": p for name, p in own}
        models = (self.model.encoder, self.teacher, self.former, self.objective)
        state = [buffer for model in models for buffer in model.buffers()]
        before = [tensor.clone() for tensor in state]
        images = torch.rand(count, 3, size, size, device=self.device)
        views, drawn = self._drawn(images, torch.arange(count, device=self.device), 0)
        self._outcome(views, drawn).losses.mean().backward()
        for tensor, value in zip(state, before):
            tensor.copy_(value)
        self.moving = {name: p for name, p in chosen.items() if p.grad is not None}
        for parameter in chosen.values():
            parameter.requires_grad_(parameter.grad is not None).grad = None
        self.optimizer = self._optimizer([*self.moving.values()])
        self.state = [p.detach() for p in self.moving.values()] + state
        self.start = [tensor.clone() for tensor in self.state]

    def _chosen(self, which: str) -> list[tuple[str, torch.nn.Parameter]]:
        return [*select_parameters(self.model.encoder, which).items()]

    def _optimizer(self, moving: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        update = self.settings.update
        if kind(update) == "Adam":
            rate, cuda = update.learning_rate, self.device == "cuda"
            return torch.optim.Adam(moving, rate, fused=True, capturable=cuda)
        rate, momentum = update.learning_rate, update.momentum
        return torch.optim.SGD(moving, rate, momentum=momentum, fused=True)

    def _prepare_parts(self) -> None:
        """What follows a step, and what is added to the loss."""
        self.follow: list[Callable[[], object]] = []
        self.drift: Drift | None = None
        self.penalty: Callable[[], Tensor] | None = None
        for part in self.settings.aftermath:
            if kind(part) in by_hand.AFTERMATH:
                self.follow.append(by_hand.AFTERMATH[kind(part)](part, self.moving))
                continue
            if kind(part) == "SensingTeacher":
                self.drift = Drift(self.source["prototypes"], part.renewal)
            names = dict(self.teacher.named_parameters())
            own = {name.removeprefix("model."): p.detach() for name, p in self.moving.items()}
            pairs = [(names[name], p) for name, p in own.items() if name in names]
            self.follow.append(partial(self._teach, *zip(*pairs), 1 - part.momentum))
        if kind(self.settings.penalty) == "FisherPenalty":
            fisher = [self.source["fisher"][n.removeprefix("model.")] for n in self.moving]
            self.penalty = by_hand.fisher(self.moving, fisher, self.settings.penalty.weight)
        elif self.drift is not None:
            weight = self.settings.penalty.weight
            self.penalty = by_hand.turned(self.moving, self.drift, weight)

    def _teach(self, averages: tuple[Tensor, ...], moving: tuple[Tensor, ...], rate: float) -> None:
        if self.drift is not None:
            rate = rate * (1 - self.drift.divergence().item())
        torch._foreach_lerp_(averages, moving, rate)
        if self.drift is not None:
            self.drift.join()

    def _drawn(self, images: Tensor, index: Tensor, step: int) -> tuple[Tensor, list[Tensor]]:
        """Views, and what else the objective takes."""
        raise NotImplementedError

    def _outcome(self, views: Tensor, drawn: list[Tensor]) -> Outcome:
        """The objective's outcome, from views."""
        raise NotImplementedError


@torch.no_grad()
def _logits(model: torch.nn.Module, images: Tensor) -> Tensor:
    return model(images)
