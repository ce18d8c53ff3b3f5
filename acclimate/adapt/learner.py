"""A model and the parts that adapt it, built once from settings; their state by name."""

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.adapt.chosen import Statistics, answers_in_steps
from acclimate.adapt.norms import norms_of, values_a_channel
from acclimate.adapt.room import Room
from acclimate.adapt.search import prompted
from acclimate.adapt.state import State, Undo
from acclimate.adapt.teaching import SourceModel, give_divergence, give_source, give_teacher
from acclimate.backbones import Classifier, check_finite, duplicate, moving_parameters, settled
from acclimate.errors import InputError
from acclimate.methods import AdapterSettings
from acclimate.objectives import Objective, Taught, as_outcome
from acclimate.parts.answer import Answer
from acclimate.parts.normalisation import BatchNorms
from acclimate.parts.penalty import Unpenalised
from acclimate.parts.rounds import give_moments
from acclimate.parts.search import CovarianceAdaptation
from acclimate.parts.step import Step
from acclimate.parts.teacher import AverageTeacher
from acclimate.parts.update import allocate_state, select_parameters
from acclimate.preprocessing import Preprocessing
from acclimate.randomness import key
from acclimate.runtime.depthwise import may_be_depthwise
from acclimate.runtime.graphs import Recorder
from acclimate.runtime.precision import autocast

TAKEN, SKIPPED, REFUSED = range(3)


class Learner:
    """One moving copy of a model, and its parts; all that moves is allocated here, once.

    Args:
        model: Copied.
        objective: What steps minimise, the learner's own; None takes no steps.
        settings: The parts.
        preprocessing: From images in 0..1 to what the model takes.
        device: Where to run.
        limit: The most bytes that the process may hold; None goes by what is free.
        statistics: Statistics of source images that the parts need, by kind and name.

    Attributes:
        moving: The parameters that steps change, by name.
        depthwise: Whether there may be depthwise convolutions.
        min_images: From fewer there is no loss, or batch norm would see a single value.
        room: How passes keep within the memory.
        recorder: Runs batches, on a GPU as a recorded graph.
        counts: Steps taken, skipped and refused; an answer that was undone counts as refused.
        watching: Parts that see each answer.
        state: Everything that learning changes.

    Raises:
        InputError: weights that are not finite, or parameters that the objective does not use.
    """

    def __init__(
        self,
        model: Classifier,
        objective: Objective | None,
        settings: AdapterSettings,
        preprocessing: Preprocessing,
        device: torch.device,
        limit: int | None = None,
        statistics: Statistics | None = None,
    ):
        self.settings: AdapterSettings = settings
        self.preprocessing: Preprocessing = preprocessing
        self.device: torch.device = device
        self.model: Classifier = settled(duplicate(model), device)
        check_finite(self.model)
        self.objective: Objective | None = None if objective is None else settled(objective, device)
        if objective is not None:
            objective.equip(self.model)
        self.depthwise: bool = may_be_depthwise(self.model, self.objective)
        self.min_images: int = objective.min_images if objective else 1
        self.gives_logits: bool = answers_in_steps(objective, settings)
        classes = self.model.num_classes
        self.statistics: dict[str, dict[str, Tensor]] = {
            kind: {name: tensor.to(device) for name, tensor in named.items()}
            for kind, named in (statistics or {}).items()
        }
        self.norms: BatchNorms = norms_of(settings, self.model, self.objective)
        self.selection: Any = self._built(settings.selection, classes, device)
        self.correction: Any = self._built(settings.correction, self.model, device)
        self.reset: Any = self._built(settings.reset, device)
        self.answer: Answer = settings.answer
        memory = settings.memory if self.objective else AdapterSettings().memory
        self.memory: Any = self._built(memory, preprocessing.shape, device, classes)
        self.room: Room = Room(self, limit)
        self.recorder: Recorder = Recorder("the adapted batch", device)
        if objective is not None and not objective.replayable:
            self.recorder.obstacle = "the objective is not replayable"
        self.moving: dict[str, Tensor] = {}
        self._written: dict[str, Tensor] = {}
        self._build_steps()
        self.answering: Callable[[Tensor], tuple[Tensor, Tensor | None]] = self._answering()
        self.counts: Tensor = torch.zeros(3, dtype=torch.int64, device=device)
        # On the CPU: no one waits for a device to learn it.
        self.seen: Tensor = torch.zeros((), dtype=torch.int64)
        self.state: State = State(self._learned(), self._kept())
        if self.source is not None:
            self.source.take_weights(self.state)
        self._undo = Undo([*self._statistics, *self._written.values()])
        self._undo_selection = Undo(list(self.selection.state().values()))

    def _built(self, part: Any, *given: Any) -> Any:
        """A part, which gets the statistics of source images that it names by their kind."""
        kinds = getattr(part, "source_statistics", ())
        return part.build(*given, **{kind: self.statistics[kind] for kind in kinds})

    def keep(self) -> None:
        """Keep what the passes of a step write to, before it."""
        self._undo.keep()
        self._undo_selection.keep()

    def undo(self, step: Step) -> None:
        """Take back what the passes of a step wrote, unless it was taken.

        A selection goes on from a skipped step: it has seen the images that it left out.
        """
        self._undo.unless(step.taken)
        self._undo_selection.unless(step.finite)

    @contextmanager
    def passing(self):
        """Within it an answer is not the batch's last: no part remembers it."""
        parts = (self.correction, self.norms, *self.watching)
        undo = Undo([tensor for part in parts for tensor in part.state().values()])
        yield
        undo.unless(torch.zeros((), dtype=torch.bool, device=self.device))

    def recover(self) -> None:
        """Forget weights whose answer was not finite."""
        self.state.forget()
        self.counts[REFUSED] += 1

    def counted(self, step: Step) -> Step:
        """Count a step."""
        self.counts += torch.stack([step.taken, step.skipped, step.refused]).view(3, -1).sum(1)
        return step

    @property
    def held(self) -> list[Tensor]:
        """Every tensor that is kept beside the model."""
        objective = self.objective
        parts = [*objective.parameters(), *objective.buffers()] if objective else []
        sources = [value for value in self.state.sources.values() if value is not None]
        own = {id(t): t for t in (*self.model.parameters(), *self.model.buffers(), *parts)}
        rest = [t for t in self.state.tensors.values() if id(t) not in own]
        copies = [tensor for part in (self.penalty, *self.aftermath) for tensor in part.copies]
        return [*sources, *self._undo.before, *self._undo_selection.before, *copies, *parts, *rest]

    def _build_steps(self) -> None:
        """The parameters that move, their optimiser, and what follows a step."""
        self.optimizer: Any = None
        self.aftermath: list[Any] = []
        self.watching: list[Any] = []
        self.penalty: Any = Unpenalised()
        self.source: SourceModel | None = None
        update = self.settings.update
        if self.objective is None or update is None:
            return
        if isinstance(update, CovarianceAdaptation):
            size, seed = self.preprocessing.size, self.settings.seed
            name, self.optimizer = prompted(self.model, size, update, seed)
            self.moving = {f"model.encoder.{name}": self.optimizer.prompts}
            self.recorder.obstacle = "candidates are drawn on the host"
            self.room.measure(partial(self.trial, max(2, self.min_images)))
            return
        self.moving = self._reached()
        self.optimizer = update.build(self.moving.values())
        allocate_state(self.optimizer, list(self.moving.values()))
        self.penalty = self._built(self.settings.penalty, self.moving)
        self.aftermath = [self._built(part, self.moving) for part in self.settings.aftermath]
        self.watching = [part for part in self.aftermath if hasattr(part, "sees")]
        give_moments(self.aftermath, self.optimizer)
        give_divergence(self.penalty, self.teacher)
        if isinstance(self.objective, Taught):
            give_teacher(self.objective, self.teacher, self.norms)
            self.source = give_source(self.objective, self.norms)

    @property
    def teacher(self) -> AverageTeacher | None:
        """The average that follows the steps, if one does."""
        return next((part for part in self.aftermath if isinstance(part, AverageTeacher)), None)

    @property
    def _statistics(self) -> list[Tensor]:
        """The running statistics that passes of steps write to."""
        others = (other.statistics.values() for other in (self.teacher, self.source) if other)
        return [*self.norms.written(), *(tensor for each in others for tensor in each)]

    def _reached(self) -> dict[str, Tensor]:
        """Those of the chosen parameters that the objective's gradient reaches: one trial shows."""
        update, objective = self.settings.update, self.objective
        assert objective is not None
        assert update is not None and not isinstance(update, CovarianceAdaptation)
        chosen: dict[str, Tensor] = {
            f"model.encoder.{name}": parameter
            for name, parameter in select_parameters(self.model.encoder, update.parameters).items()
        }
        if update.head:
            head = moving_parameters(self.model.head)
            chosen |= {f"model.head.{n}": p.requires_grad_(True) for n, p in head.items()}
        if update.auxiliary:
            own = objective.requires_grad_(True).named_parameters()
            chosen |= {f"objective.{name}": parameter for name, parameter in own}
        with values_a_channel(self.norms.layers.values()) as values:
            count = max(2, self.min_images)
            self.room.measure(partial(self.trial, count))
        if count in values:  # of a single image there would be a single value: no statistics
            self.min_images = count
        reached = {name: p for name, p in chosen.items() if p.grad is not None}
        for parameter in chosen.values():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        if not reached:
            raise InputError(
                f"none of the parameters {update.parameters!r} takes part in what the objective "
                f"computes; choose others."
            )
        return reached

    def trial(self, count: int) -> None:
        """Run the passes of a step on any images; gradients are left, and nothing else.

        Buffers of the objective that they write to are noted as part of the state.
        """
        objective = self.objective
        assert objective is not None
        height, width, channels = self.preprocessing.shape
        pixels = torch.arange(count * channels * height * width, device=self.device)
        # Their values have no effect: any will do.
        images = (pixels % 251 / 250).view(count, channels, height, width)
        before = {name: buffer.clone() for name, buffer in objective.named_buffers()}
        norms = Undo(self._statistics)
        index = torch.arange(count, device=self.device)
        views, *rest = objective.draw(images, key(self.settings.seed, "adapt", 0), index)
        views = self.preprocessing.normalize(views)
        with self.norms.learning(), torch.enable_grad():
            with autocast(self.device, self.settings.precision):
                loss = as_outcome(objective(self.model, views, *rest)).losses.mean()
            if loss.requires_grad:
                loss.backward()
        norms.unless(torch.zeros((), dtype=torch.bool, device=self.device))
        statistics = {id(tensor) for tensor in self.norms.state().values()}
        for name, buffer in objective.named_buffers():
            if id(buffer) not in statistics and not torch.equal(buffer, before[name]):
                self._written[f"objective.{name}"] = buffer
                buffer.copy_(before[name])

    def _answering(self) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
        """The model that answers: logits, and features where they are known."""
        if not self.answer.of_teacher:
            return self._logits_and_features
        if (teacher := self.teacher) is not None:
            return partial(teacher.answer, self.model)
        raise InputError("the answer is a teacher's; add Teacher to aftermath, and take steps.")

    def _logits_and_features(
        self, images: Float[Tensor, "batch 3 h w"]
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch dim"]]:
        features = self.model.encoder(images)
        return self.model.head(features), features

    def _learned(self) -> dict[str, Tensor]:
        names = {id(parameter): name for name, parameter in self.moving.items()}
        moments = {
            f"update.{names[id(parameter)]}.{key}": value
            for parameter, state in (self.optimizer.state if self.optimizer else {}).items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }
        parts = {
            "normalisation": self.norms,
            "selection": self.selection,
            "penalty": self.penalty,
            "correction": self.correction,
            "reset": self.reset,
            **({"source": self.source} if self.source else {}),
            **{f"aftermath.{place}": part for place, part in enumerate(self.aftermath)},
        }
        return {**self.moving, **self._written, **moments, **_named(parts)}

    def _kept(self) -> dict[str, Tensor]:
        return {**_named({"memory": self.memory}), "counts": self.counts, "seen": self.seen}


def _named(parts: dict[str, Any]) -> dict[str, Tensor]:
    """The state of parts, below their names."""
    return {f"{p}.{name}": t for p, part in parts.items() for name, t in part.state().items()}
