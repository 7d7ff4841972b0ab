"""A learner process for tests: it kills itself (-9) in the middle of an upload or of training, if told so.

Usage: killed.py PORT ID NUMBER SIZE {never|upload:K|train} [OWN_PORT, to listen there]
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from federations import Adds

from metisfl_async import ClientParams, ServerParams, run_learner
from metisfl_async.codec.frame import Frame, Header, frames_of
from metisfl_async.codec.pace import Pace
from metisfl_async.core.model import Array, Model
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.transport import grpc_link


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Dies(Adds):
    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        die()
        raise AssertionError


def main() -> None:
    port, learner_id, number, size, when, *own_port = sys.argv[1:]
    learner = (Dies if when == "train" else Adds)(int(number), int(size))
    if when.startswith("upload:"):
        sent = int(when.removeprefix("upload:"))

        def dying_frames(header: Header, model: Model, pace: Pace | None = None) -> Iterator[list[Frame]]:
            for index, frame in enumerate(frames_of(header, model, pace)):
                # GET_WEIGHTS uploads go through; dies when the k-th data frame of training would follow.
                if index == sent + 1 and header.metadata:
                    die()
                yield [frame]

        grpc_link.bundles_of = dying_frames  # type: ignore[attr-defined]
    own = ServerParams(port=int(own_port[0])) if own_port else None
    asyncio.run(run_learner(learner, ClientParams("127.0.0.1", int(port)), own, learner_id=learner_id))


main()
