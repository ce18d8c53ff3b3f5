"""The answer to a request: which classes, by which model, and what the guard says."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.guard import Verdict
from acclimate.serve.model import Answers
from acclimate.serve.refused import RefusedError


@dataclass(frozen=True)
class Place:
    """Where the images of a request were in a batch of its stream."""

    number: int
    """Number of the batch in the stream, from 0."""
    size: int
    """Images of the batch."""
    first: int
    """Place of the request's first image in it."""
    images: int
    """Images of the request in it."""


@dataclass(frozen=True)
class Reply:
    """The answer to a request, or to a piece of it."""

    stream: str
    """Name of the stream."""
    mode: str
    """Mode of its guard."""
    classes: tuple[str, ...]
    """Names of the classes."""
    answers: Answers
    """What both models say, a row for each image."""
    places: tuple[Place, ...]
    """The batches in which the images were adapted to."""
    ms: float
    """Milliseconds from the request to its answer."""

    @property
    def given(self) -> Float[Tensor, "batch classes"]:
        """Logits of the answers that are given."""
        answers = self.answers
        return torch.where(answers.use_adapted[:, None], answers.adapted, answers.frozen)

    def record(self, top: int) -> dict[str, Any]:
        """The reply as JSON values.

        Args:
            top: Number of classes whose probabilities are named for each image.
        """
        given = self._classes(self.given, max(top, 1))
        adapted, frozen = (
            self._classes(logits, 1) for logits in (self.answers.adapted, self.answers.frozen)
        )
        answers = [
            first[0]
            | {
                "model": "adapted" if used else "frozen",
                "adapted": second[0],
                "frozen": third[0],
                "top": first[:top],
            }
            for used, first, second, third in zip(
                self.answers.use_adapted.tolist(), given, adapted, frozen
            )
        ]
        verdict = self.answers.verdict
        return {
            "stream": self.stream,
            "mode": self.mode,
            "images": len(answers),
            "answers": answers,
            "verdict": None if verdict is None else verdict_record(verdict),
            "estimate": None if verdict is None else estimate_record(verdict),
            "batches": [vars(place) for place in self.places],
            "ms": round(self.ms, 3),
        }

    def _classes(self, logits: Tensor, top: int) -> list[list[dict[str, Any]]]:
        """The most probable classes of each image."""
        probabilities, indices = logits.softmax(1).topk(min(top, logits.shape[1]), dim=1)
        return [
            [
                {"class": self.classes[index], "index": index, "probability": round(p, 6)}
                for p, index in zip(*row)
            ]
            for row in zip(probabilities.tolist(), indices.tolist())
        ]


class Gathered:
    """The jobs of one request: its future gets the whole reply when all of them are done.

    When one fails, the request has failed, and those that still wait are not done: nothing is
    learned, and no stream is forgotten, for a client that was told that it did not happen.

    Args:
        pieces: The jobs' futures, in their order. Those without images have no reply, but may fail.
    """

    def __init__(self, pieces: Sequence[Future[Any]]):
        self.future: Future[Reply] = Future()
        self.future.set_running_or_notify_cancel()  # a client that is gone takes nothing back
        self._pieces = pieces
        for piece in pieces:
            piece.add_done_callback(self._take)

    def _take(self, piece: Future) -> None:
        """Take the result of a job, or its failure; in the thread of the model."""
        if self.future.done():
            return
        if error := piece.exception():
            self.future.set_exception(error)
            for other in self._pieces:
                other.cancel()
        elif all(each.done() for each in self._pieces):
            results = [each.result() for each in self._pieces]
            replies = [result for result in results if isinstance(result, Reply)]
            if len({reply.classes for reply in replies}) == 1:
                self.future.set_result(whole(replies))
            else:
                sentence = "another bundle was loaded amid the request; send it again."
                self.future.set_exception(RefusedError("failed", sentence, 1))


def whole(replies: Sequence[Reply]) -> Reply:
    """One reply of those to the pieces of a request; its verdict is the last one."""
    last = replies[-1]
    if len(replies) == 1:
        return last
    answers = Answers(
        *(torch.cat([getattr(r.answers, name) for r in replies]) for name in _ROWS),
        verdict=last.answers.verdict,
    )
    places = tuple(place for reply in replies for place in reply.places)
    return Reply(last.stream, last.mode, last.classes, answers, places, last.ms)


def verdict_record(verdict: Verdict) -> dict[str, Any]:
    """A guard's decision as JSON values."""
    return {
        "answer": verdict.answer,
        "learning": verdict.learning,
        "reason": verdict.reason,
        "share": round(verdict.share, 4),
        "agreement": round(verdict.agreement, 4),
    }


def estimate_record(verdict: Verdict) -> dict[str, Any]:
    """A guard's estimates of accuracy as JSON values."""
    found: dict[str, Any] = {"images": round(verdict.estimate.images, 1)}
    for name in ("frozen", "adapted", "guarded"):
        each = getattr(verdict.estimate, name)
        found[name] = {part: round(getattr(each, part), 4) for part in ("value", "low", "high")}
    return found


_ROWS = ("frozen", "adapted", "use_adapted")
