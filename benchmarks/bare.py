"""Bare passes: adapt and answer as one would write it by hand for one method."""

from contextlib import nullcontext

import by_hand
import torch
from bare_setup import Prepared, kind
from torch import Tensor

from acclimate.backbones import to_the_end
from acclimate.objectives import Outcome, as_outcome
from acclimate.parts.banks import Bank
from acclimate.randomness import key


class Bare(Prepared):
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

    def __call__(self, images: Tensor) -> Tensor:
        """The logits, of one image after another where the method learns so."""
        images = images.float() / 255
        index = torch.arange(self.seen, self.seen + len(images), device=self.device)
        self.seen += len(images)
        if isinstance(self.bank, Bank):
            return self._banked(images, index)
        if not self.settings.one_by_one:
            return self._episode(images, index)
        pairs = zip(images.split(1), index.split(1))
        return torch.cat([self._episode(image, number) for image, number in pairs])

    def _banked(self, images: Tensor, index: Tensor) -> Tensor:
        """Answer, keep what the bank keeps, and learn from it when an update is due."""
        answers = []
        while len(images):
            count = self.bank.until_update()
            logits, _ = self._answer(images[:count])
            p = logits.softmax(1)
            uncertainties = -(p * (p + 1e-6).log()).sum(1)
            told = logits.argmax(1).tolist(), uncertainties.tolist()
            if self.bank.offer(images[:count], index[:count], *told):
                context, numbers, weights = self.bank.context()
                self._step(context, numbers, 0, weights)
            answers.append(logits)
            images, index = images[count:], index[count:]
        return torch.cat(answers)

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
            _switch(module, self.norms_learn)
        for name in self.objective.keeps_source:
            _switch(self.objective.get_submodule(name), False)
        running = kind(self.settings.normalisation) == "RunningStatistics"
        whole = to_the_end() if running else nullcontext()
        with whole, torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            return as_outcome(self.objective(self.model, views, *drawn))

    @torch.no_grad()
    def _answer(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and features where something reads them."""
        model = self.teacher if kind(self.settings.answer) == "FromTeacher" else self.model
        # In training mode batch norm normalises by the batch's own statistics.
        _switch(model, kind(self.settings.normalisation) == "BatchStatistics")
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
        (sure, labels), (other, found) = (x.float().softmax(1).max(1) for x in (logits, others))
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


def _switch(module: torch.nn.Module, training: bool) -> None:
    """Training mode or not; nothing is done where a module is in that mode."""
    if module.training != training:
        module.train(training)
