"""Why a federation ended, for programs; its `reason` says it to people."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Ending"]


class Ending(StrEnum):
    """Why a federation ended. One that reached a termination signal has the signal's name."""

    FEDERATION_ROUNDS = "federation_rounds"
    GLOBAL_UPDATES = "global_updates"
    CUTOFF_TIME = "execution_cutoff_time_mins"
    CUTOFF_SCORE = "evaluation_metric_cutoff_score"
    PATIENCE = "patience_rounds"
    MAX_EPSILON = "max_epsilon"  #: another model would spend more of the learners' privacy than the rule allows
    STOPPED = "stopped"  #: somebody asked for it, or no driver was there any more
    QUORUM_LOST = "quorum_lost"  #: too few learners came, stayed or delivered
    NO_MODEL = "no_model"  #: the rule made none that can be published
    STORE_FAILED = "store_failed"  #: the model store, for too long
    NO_MEMORY = "no_memory"  #: the controller had none for a model

    @property
    def is_failure(self) -> bool:
        """Whether it ended without reaching a termination signal or being stopped."""
        return self in _FAILURES

    @property
    def is_sudden(self) -> bool:
        """Whether no model that is being made is waited for."""
        return self in _SUDDEN


_SUDDEN = {Ending.NO_MODEL, Ending.STORE_FAILED, Ending.NO_MEMORY}
_FAILURES = {Ending.QUORUM_LOST, *_SUDDEN}
