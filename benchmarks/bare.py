"""Bare passes: adapt and answer as one would write it by hand for one method."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import by_hand
import torch
from by_hand import ClassStatistics, Drift, PromptSearch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from acclimate.backbones import to_the_end
from acclimate.backbones.prompts import add_prompts, blocks_of
from acclimate.backbones.trace import two_images
from acclimate.bundle import Bundle
from acclimate.methods import METHODS, AdapterSettings
from acclimate.objectives import Outcome, Taught, as_outcome
from acclimate.parts.banks import Bank
from acclimate.parts.update import select_parameters
from acclimate.randomness import key
from acclimate.runtime.precision import Precision


def kind(part: Any) -> str:
    """The name of a part's class."""
    return type(part).__name__


class Bare:
    """One method without checks, choices, reports and undoing.

    Objectives, views, random numbers, and which images a bank keeps are the library's. All else is
    plain torch: passes, optimiser, `by_hand`'s equations.

    Args:
        bundle: The bundle, as the adapter takes it.
        name: A method with steps.
        settings: Settings of the adapter; ``prior`` of batch statistics is assumed to be 0.
        precision: bf16 or fp32.
        layout: Memory format of weights and images.
        device: Where to run; a GPU for methods of plain gradient steps alone.
        statistics: Whether images enter the statistics of their classes, where such are kept.
    """

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

    def __call__(self, images: Tensor) -> Tensor:
        """The logits, of one image after another where the method learns so."""
        images = images.float() / 255
        index = torch.arange(self.seen, self.seen + len(images), device=self.device)
        self.seen += len(images)
        if isinstance(self.bank, Bank):
            parts = zip(images.split(self.bank.every), index.split(self.bank.every))
            return torch.cat([self._banked(*part) for part in parts])
        if not self.settings.one_by_one:
            return self._episode(images, index)
        pairs = zip(images.split(1), index.split(1))
        return torch.cat([self._episode(image, number) for image, number in pairs])

    def _banked(self, images: Tensor, index: Tensor) -> Tensor:
        """Answer, keep what the bank keeps, and learn from it."""
        logits, _ = self._answer(images)
        p = logits.softmax(1)
        uncertainty = -(p * (p + 1e-6).log()).sum(1)
        self.bank.offer(images, index, logits.argmax(1).tolist(), uncertainty.tolist())
        self._step(*self.bank.context()[:2], 0, self.bank.context()[2])
        return logits

    def _episode(self, images: Tensor, index: Tensor) -> Tensor:
        if self.settings.reset.always:
            torch._foreach_copy_(self.state, self.start)
            for value in self.optimizer.state.values():
                torch._foreach_zero_([x for x in value.values() if x is not None])
        before = kind(self.settings.answer) == "Before"
        early = None
        if before and not self.objective.gives_logits:
            early, _ = self._answer(images)
        for number in range(self.settings.steps):
            outcome = self._step(images, index, number)
            if before and early is None:
                early = outcome.logits.detach().float()
        logits, features = self._answer(images) if early is None else (early, None)
        if kind(self.settings.correction) == "Prior":
            return by_hand.prior(logits)
        return logits if features is None else self._shifted(logits, features)

    def _step(
        self, images: Tensor, index: Tensor, number: int, importance: Tensor | None = None
    ) -> Outcome | None:
        views, drawn = self._drawn(images, index, number)
        if kind(self.settings.update) == "CovarianceAdaptation":
            with torch.no_grad():
                self.search(lambda: self._loss(views, drawn, None)[0])
            return None
        loss, outcome, weights = self._loss(views, drawn, importance)
        loss.backward()
        if kind(self.settings.update) == "SAM":
            loss = self._sharpest(views, drawn, weights)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for follow in self.follow:
                follow()
        if kind(self.settings.reset) == "AtLowLoss":
            self._reset_at(loss.item())
        return outcome

    def _sharpest(self, views: Tensor, drawn: list[Tensor], first: Tensor) -> Tensor:
        """SAM's gradient."""
        moving = [p for p in self.moving.values() if p.grad is not None]
        with torch.no_grad():
            gradients = [p.grad for p in moving]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            shifts = torch._foreach_mul(gradients, self.settings.update.radius / norm.item())
            torch._foreach_add_(moving, shifts)
        self.optimizer.zero_grad()
        loss, _, _ = self._loss(views, drawn, (first != 0).float())
        loss.backward()
        with torch.no_grad():
            torch._foreach_sub_(moving, shifts)
        return loss

    def _reset_at(self, loss: float) -> None:
        """SAR's reset."""
        average = self.loss_average
        self.loss_average = loss if average is None else 0.9 * average + 0.1 * loss
        if self.loss_average < self.settings.reset.threshold:
            torch._foreach_copy_(self.state, self.start)
            self.loss_average = None

    def _drawn(self, images: Tensor, index: Tensor, step: int) -> tuple[Tensor, list[Tensor]]:
        random = key(self.settings.seed, "adapt", step)
        views, *drawn = self.objective.draw(images, random, index)
        return self._normalize(views), drawn

    def _loss(
        self, views: Tensor, drawn: list[Tensor], importance: Tensor | None
    ) -> tuple[Tensor, Outcome, Tensor | None]:
        outcome = self._outcome(views, drawn)
        weights = self.weigh(outcome)
        if importance is not None:
            weights = importance if weights is None else weights * importance
        loss = by_hand.weighted(outcome.losses, weights)
        return loss if self.penalty is None else loss + self.penalty(), outcome, weights

    def _outcome(self, views: Tensor, drawn: list[Tensor]) -> Outcome:
        for module in (self.model, self.objective, self.teacher, self.former):
            module.train(self.norms_learn)
        for name in self.objective.keeps_source:
            self.objective.get_submodule(name).eval()
        running = kind(self.settings.normalisation) == "RunningStatistics"
        whole = to_the_end() if running else nullcontext()
        with whole, torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            return as_outcome(self.objective(self.model, views, *drawn))

    @torch.no_grad()
    def _answer(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and features where something reads them."""
        model = self.teacher if kind(self.settings.answer) == "FromTeacher" else self.model
        # In training mode batch norm normalises by the batch's own statistics.
        model.train(kind(self.settings.normalisation) == "BatchStatistics")
        views = self._normalize(images)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            features = model.encoder(views)
            logits = model.head(features)
            if self.kept:
                logits = self._by_classes(views, logits)
            if self.settings.answer.flip:
                logits = (logits.float() + model(self._normalize(images.flip(-1)))) / 2
        if self.drift is not None:
            self.drift.sees(logits, features)
        return logits.float(), features if kind(self.settings.correction) == "Shifted" else None

    def _by_classes(self, views: Tensor, logits: Tensor) -> Tensor:
        """The answer once the images have entered the statistics of their classes."""
        self.model.train()
        others = self.model(views)
        self.model.eval()
        (sure, labels), (other, found) = (
            x.float().softmax(1).max(1) for x in (logits, others)
        )
        labels = found if other.mean() > sure.mean() else labels
        members = torch.nn.functional.one_hot(labels, 10).float().T
        for each in self.kept:
            each.members = members if self.enters else None
        logits = self.model(views)
        for each in self.kept:
            each.members = None
        return logits

    def _shifted(self, logits: Tensor, features: Tensor) -> Tensor:
        """FOA's correction."""
        moments, features = self.source["moments"], features.float()
        source = moments[f"mean.{len(moments) // 2 - 1}"]
        if self.shift is not None:
            with torch.no_grad():
                logits = self.model.head(features + source - self.shift)
        now = features.mean(0)
        self.shift = now if self.shift is None else self.shift.lerp(now, 0.1)
        return logits

    def _normalize(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).contiguous(memory_format=self.layout)


@torch.no_grad()
def _logits(model: torch.nn.Module, images: Tensor) -> Tensor:
    return model(images)
