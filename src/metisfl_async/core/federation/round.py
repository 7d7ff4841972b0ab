"""How one global model comes about: the tasks that lead to it and those that measure it, and the record of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from metisfl_async.core.federation.evaluation import Evaluation
from metisfl_async.core.federation.records import LearnerRecord, RoundRecord
from metisfl_async.core.federation.tasks import Task, TaskKind, TaskState
from metisfl_async.core.ids import LearnerId

__all__ = ["Round"]


class Round:
    """One attempt at a global model, from the tasks that are given for it to its evaluation.

    Round 0 is the time before the first one, when learners are asked for first weights; nobody sees its record.
    """

    def __init__(
        self,
        number: int,
        model_version: int,
        clock: Callable[[], float],
        *,
        started_at: float,
        in_rounds: bool = True,
    ) -> None:
        self._clock = clock
        self._opened_at = self._published_at = clock()
        self.tasks: list[Task] = []
        self.reported: list[LearnerId] = []  #: whose updates were folded, in order
        self._folds: list[tuple[float, int]] = []  # for each of them: milliseconds, and bytes of updates in memory then
        started_ms = _ms(self._opened_at - started_at)
        self.record = RoundRecord(number, model_version, in_rounds=in_rounds, started_ms=started_ms)
        self.is_open = number > 0  #: whether the record still changes

    @classmethod
    def restored(cls, record: RoundRecord, clock: Callable[[], float], *, started_at: float) -> Round:
        """Go on with a round of before the controller died."""
        restored = cls(record.number, record.model_version, clock, started_at=started_at, in_rounds=record.in_rounds)
        restored._opened_at = started_at + record.started_ms / 1e3
        restored.record = record
        restored.reported = [LearnerId(learner) for learner in record.participants]
        return restored

    def as_published(self) -> RoundRecord:
        """Give a copy of the record as it is when its model is published, for when the controller dies then."""
        learners = {
            learner: replace(part, train_state="counted") if part.train_state == "folded" else part
            for learner, part in self.record.learners.items()
        }
        return replace(self.record, is_published=True, participants=sorted(self.reported), learners=learners)

    def carry(self, task: Task) -> None:
        """Take over an update that was folded for an earlier attempt at the same model."""
        task.part = replace(task.part, failures=[])
        self.record.learners[task.learner] = task.part
        self.tasks.append(task)
        self.fold(task, 0)

    @property
    def number(self) -> int:
        return self.record.number

    def part(self, learner: LearnerId) -> LearnerRecord:
        """Give a learner's part of the record, a new one if it has none."""
        return self.record.learners.setdefault(learner, LearnerRecord())

    def add(self, task: Task) -> None:
        """Make a task part of this round; of a learner's parts one stays, the latest that counted if any did."""
        earlier, part = self.record.learners.get(task.learner), task.part
        self.tasks.append(task)
        if earlier is None or earlier is part:
            self.record.learners[task.learner] = part
            return
        failures = [*earlier.failures, *part.failures]
        if part.weight is None and earlier.weight is not None:
            earlier, part = part, earlier
        part.bytes_sent += earlier.bytes_sent
        part.bytes_received += earlier.bytes_received
        part.failures = failures
        self.record.learners[task.learner] = part
        for other in self.tasks:
            if other.part is earlier:  # what still happens to it is on record
                other.part = part

    def fold(self, task: Task, held_bytes: int) -> None:
        """Note that a learner's update was folded, and how many bytes of updates were in memory then."""
        self.reported.append(task.learner)
        self._folds.append((task.part.aggregation_ms or 0.0, held_bytes))

    def take_out(self, task: Task) -> None:
        """Take back that an update was folded: it is in the sum no more."""
        place = self.reported.index(task.learner)
        del self.reported[place], self._folds[place]
        task.part.weight = None

    def failures(self) -> str:
        """Say why tasks did not count, and whose; learners with the same reason together, three reasons at most."""
        learners: dict[str, list[str]] = {}
        for task in self.tasks:
            if task.state.is_final and task.state is not TaskState.COUNTED:
                names = learners.setdefault(": ".join(filter(None, (task.error_type, task.reason))), [])
                if task.learner not in names:
                    names.append(task.learner)
        texts = [f"{_listed(names)}: {text}" for text, names in learners.items()]
        return "; ".join([*texts[:3], f"and {len(texts) - 3} more reasons"] if len(texts) > 3 else texts)

    def publish(self, selection_ms: float) -> None:
        """Note that there is a new global model; choosing learners and updates for it took so long at the end."""
        self._published_at = self._clock()
        self.record.is_published = True
        self.record.selection_ms += selection_ms

    def close(
        self,
        weights: Mapping[str, float],
        *,
        stride_length: int | None = None,
        evaluation: Evaluation | None = None,
    ) -> RoundRecord:
        """Complete the record, once every task is over.

        `weights` are the last known scaling factors; `evaluation` is the mean, if it is not that of this round alone.
        """
        record, self.is_open = self.record, False
        training = [task for task in self.tasks if task.kind is TaskKind.TRAIN]
        evaluated = [task for task in self.tasks if task.kind is TaskKind.EVALUATE]
        # Tasks may be older than the round: those without rounds, and those whose updates it took over.
        trained_at = max([self._opened_at, *(task.ended_at for task in training)])
        accepted_at = max([self._opened_at, *(task.accepted_at for task in training)])
        record.duration_ms = _ms(self._clock() - self._opened_at)
        record.dispatch_ms = _ms(accepted_at - self._opened_at)
        record.train_ms = _ms(trained_at - self._opened_at)
        record.aggregation_ms = sum(folded_ms for folded_ms, _ in self._folds)
        if record.is_published:
            record.aggregation_ms += _ms(self._published_at - trained_at)
        if evaluated:
            record.evaluation_dispatch_ms = _ms(max(task.accepted_at for task in evaluated) - self._published_at)
            record.evaluation_ms = _ms(max(task.ended_at for task in evaluated) - self._published_at)
        for task in training:
            task.part.sent_ms, task.part.ended_ms = self._since_start(task.offered_at), self._since_start(task.ended_at)
        for task in evaluated:
            task.part.evaluation_sent_ms = self._since_start(task.offered_at)
        record.participants = sorted(self.reported) if record.is_published else []
        self._note_blocks(stride_length or max(len(self.reported), 1))
        record.close(weights, evaluation)
        return record

    def _since_start(self, at: float) -> float:
        """Count from the federation's start, in milliseconds."""
        return self.record.started_ms + _ms(at - self._opened_at)

    def _note_blocks(self, length: int) -> None:
        """Sum up over blocks of updates, as they were folded."""
        record = self.record
        for start in range(0, len(self._folds), length):
            block = self._folds[start : start + length]
            record.aggregation_block_size.append(len(block))
            record.aggregation_block_duration_ms.append(sum(folded_ms for folded_ms, _ in block))
            record.aggregation_block_memory_kb.append(max(held_bytes for _, held_bytes in block) / 1024)


def _ms(seconds: float) -> float:
    return seconds * 1e3


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
