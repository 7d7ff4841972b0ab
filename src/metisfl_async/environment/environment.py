"""A federation as one file describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from metisfl_async.controller.controller import Controller
from metisfl_async.core.config import ClientParams, ControllerConfig, ModelStoreConfig, TerminationSignals
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array
from metisfl_async.core.spelling import nearest
from metisfl_async.driver.session import DriverSession
from metisfl_async.environment.endpoint import Endpoint
from metisfl_async.environment.entries import InProcess, LearnerEntry, SessionOptions
from metisfl_async.learner.learner import Learner
from metisfl_async.learner.run import run_learner
from metisfl_async.simulation.simulation import Simulation

__all__ = ["FederationEnvironment"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FederationEnvironment:
    """A whole federation, described in one file that every party reads.

    ::

        environment = FederationEnvironment.from_yaml("federation.yaml")
        async with environment.controller() as controller:  # on one machine
            await controller.serve()
        await environment.run_learner(MyLearner(), "site-1")  # on each site
        result = await environment.session().run()  # wherever you sit
        result = await environment.session([MyLearner(), MyLearner()]).run()  # or all in one process

    Certificates are looked at only where they are used: a site needs the root certificate, not the private key.
    """

    termination_signals: TerminationSignals
    learners: Sequence[LearnerEntry] = ()  #: `session` waits for so many; only simulated ones need no entries
    controller_config: ControllerConfig = field(default_factory=ControllerConfig)
    model_store_config: ModelStoreConfig = field(default_factory=ModelStoreConfig)
    controller_endpoint: Endpoint = field(default_factory=Endpoint)  #: where the controller is
    session_options: SessionOptions = field(default_factory=SessionOptions)
    _credentials: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)  # of this party

    def __post_init__(self) -> None:
        ids = [entry.learner_id for entry in self.learners if entry.learner_id]
        if twice := [learner_id for learner_id in ids if ids.count(learner_id) > 1]:
            raise ConfigError("learners", twice[0], "each learner_id once")

        self.controller_config.check_signals(self.termination_signals)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read an environment file, in MetisFL's form or in ours; docs/environment.md shows every section.

        Paths in the file are relative to it. Needs ruamel.yaml: ``pip install ruamel.yaml``.

        Raises
        ------
        ConfigError
            With file, line and key. Unknown keys are refused, and so is every option that would have no effect.
        """
        try:
            from metisfl_async.environment.reader import read
        except ModuleNotFoundError as error:
            raise ConfigError("from_yaml", str(path), "once installed: pip install ruamel.yaml") from error
        return cls(**read(Path(path)))

    def controller(self, *, resume: bool = False) -> Controller:
        """Make the controller that listens where the file says, and knows which learners it may dial."""
        config = replace(self.controller_config, learners=[listens.client_params() for listens in self._endpoints()])
        server_params = self.controller_endpoint.server_params()
        return Controller(server_params, config, self.model_store_config, resume=resume)

    def _endpoints(self) -> list[Endpoint]:
        return [entry.endpoint for entry in self.learners if entry.endpoint is not None]

    def client_params(self) -> ClientParams:
        """How learners and drivers dial the controller."""
        most = self.controller_config.max_model_bytes
        return replace(self.controller_endpoint.client_params(), max_model_bytes=most, **self._credentials)

    def with_credentials(
        self,
        *,
        certificate: str | Path | bytes | None = None,
        private_key: str | Path | bytes | None = None,
        token: str | None = None,
    ) -> Self:
        """Dial the controller with what says who you are: a certificate and its key, or a token.

        The file has no secrets: all parties read it.
        """
        given = {"certificate": certificate, "private_key": private_key, "token": token}
        return replace(self, _credentials={name: value for name, value in given.items() if value is not None})

    def entry(self, learner_id: str = "") -> LearnerEntry:
        """Find a learner's entry; one without a name is for whoever comes."""
        self._check_entries()
        entries = {entry.learner_id: entry for entry in self.learners}
        if learner_id in entries:
            return entries[learner_id]
        if not learner_id and len(entries) == 1:
            return next(iter(entries.values()))
        if "" in entries:
            return LearnerEntry(learner_id=learner_id)
        known = list(entries)
        allowed = nearest(learner_id, known) if learner_id else f"one of {', '.join(known)}"
        raise ConfigError("learner_id", learner_id, allowed)

    async def run_learner(
        self,
        learner: Learner,
        learner_id: str = "",
        *,
        worker: InProcess | None = None,
        connect_timeout_secs: float | None = None,
        spool_dir: str | Path | None = None,
        stop_timeout_secs: float | None = None,
    ) -> None:
        """Do `run_learner` for one learner of the file; without an id, for the only one, or for any.

        Without `worker` and `stop_timeout_secs`, it is as the file says.
        """
        entry = self.entry(learner_id)
        listens = entry.endpoint
        await run_learner(
            learner,
            self.client_params(),
            None if listens is None else listens.server_params(),
            learner_id=entry.learner_id,
            public_address="" if listens is None else listens.address,
            worker=worker or self.session_options.worker,
            connect_timeout_secs=connect_timeout_secs,
            spool_dir=spool_dir,
            stop_timeout_secs=self.session_options.stop_timeout_secs
            if stop_timeout_secs is None
            else stop_timeout_secs,
        )

    def session(
        self,
        learners: Sequence[Learner] | Simulation | None = None,
        *,
        listen: bool = False,
        initial_weights: Sequence[Array] | Mapping[str, Any] | str | Path | None = None,
    ) -> DriverSession:
        """Make the driver's session.

        Parameters
        ----------
        learners : sequence of Learner, or Simulation, optional
            Live learners, one for each entry, or simulated ones in place of the entries: then all run in this process,
            with a controller of its own. Without them, the session dials the controller and waits for as many learners
            as there are entries.
        listen : bool
            With live learners: talk over the controller's port, instead of in memory.
        initial_weights : sequence of ndarray, mapping, or path of a safetensors file, optional
            Where training starts; without them, one learner is asked.
        """
        options = self.session_options
        if not isinstance(learners, Simulation):
            self._check_entries()
        if learners is None:
            if listen:
                raise ConfigError("listen", listen, "False: without live learners, the controller runs elsewhere")
            return DriverSession(
                self.client_params(),
                len(self.learners),
                self.termination_signals,
                initial_weights=initial_weights,
                seed=options.seed,
                join_timeout_secs=options.join_timeout_secs,
            )
        if not isinstance(learners, Simulation) and len(learners) != len(self.learners):
            raise ConfigError("learners", len(learners), f"{len(self.learners)} of them, one for each entry")
        return DriverSession(
            self.controller() if listen else Controller(None, self.controller_config, self.model_store_config),
            learners if isinstance(learners, Simulation) else self._named(learners),
            self.termination_signals,
            initial_weights=initial_weights,
            seed=options.seed,
            join_timeout_secs=options.join_timeout_secs,
            worker=options.worker,
            stop_timeout_secs=options.stop_timeout_secs,
        )

    def _check_entries(self) -> None:
        """Refuse to look for learners where the file has none."""
        if not self.learners:
            allowed = "a list with an entry for each learner, which may be empty: - {}; or how many; or simulate all"
            raise ConfigError("learners", None, allowed)

    def _named(self, learners: Sequence[Learner]) -> Mapping[str, Learner]:
        pairs = enumerate(zip(self.learners, learners, strict=True))
        return {entry.learner_id or f"learner-{index}": learner for index, (entry, learner) in pairs}
