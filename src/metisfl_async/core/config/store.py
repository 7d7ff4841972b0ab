"""Where models are kept, as users decide it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from metisfl_async.core.checks import hostname, integer, one_of, positive
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.spelling import spelled

__all__ = ["ModelStoreConfig"]

Eviction = Literal["NoEviction", "LineageLengthEviction"]
Store = Literal["InMemory", "Disk", "Redis"]

#: The options that one store has and the others do not.
ITS_OWN = {"directory": "Disk", "model_store_hostname": "Redis", "model_store_port": "Redis", "key_prefix": "Redis"}


@spelled
@dataclass(frozen=True, kw_only=True, slots=True)
class ModelStoreConfig:
    """Where models are kept: in memory, as files in a directory, or in Redis."""

    model_store: Store = "InMemory"
    lineage_length: int = 1  #: how many global models are kept, and how many of each learner; 0 = all of them
    keep_local_models: bool = False  #: keep the learners' updates as well; rules that need them keep them in any case
    eviction_policy: Eviction | None = None  #: MetisFL's name for what `lineage_length` says, and must agree with it
    history_bytes: int = 64 * 2**20  #: of rounds' records that are kept in memory; Disk and Redis keep all, elsewhere
    durable_every: int = 1  #: without rounds: how many global models there are for one that Disk or Redis saves
    retry_secs: float | None = 600.0  #: how long a store that fails is tried again before it ends; None = for ever
    directory: str | Path | None = None  #: for Disk, which needs it; made if it is not there
    model_store_hostname: str | None = None  #: for Redis; None = 127.0.0.1
    model_store_port: int | None = None  #: for Redis; None = 6379
    key_prefix: str | None = None  #: for Redis: to find the models again; None = a new one, erased when it closes

    @property
    def is_durable(self) -> bool:
        """Whether a federation outlives its controller: what is kept can be found again."""
        return self.model_store == "Disk" or (self.model_store == "Redis" and self.key_prefix is not None)

    def __post_init__(self) -> None:
        one_of("model_store", self.model_store, get_args(Store))
        integer("lineage_length", self.lineage_length, 0)
        if not isinstance(self.keep_local_models, bool):
            raise ConfigError("keep_local_models", self.keep_local_models, "True, False")
        integer("history_bytes", self.history_bytes, 1)
        integer("durable_every", self.durable_every, 1)
        if self.durable_every > 1 and not self.is_durable:
            allowed = "1, or use a model store that outlives the controller: Disk, or Redis with a key_prefix"
            raise ConfigError("durable_every", self.durable_every, allowed)
        if self.retry_secs is not None:
            positive("retry_secs", self.retry_secs)
        if self.eviction_policy is not None:
            one_of("eviction_policy", self.eviction_policy, get_args(Eviction))
            if (self.eviction_policy == "NoEviction") != (self.lineage_length == 0):
                allowed = "NoEviction with lineage_length=0, which keeps all; LineageLengthEviction with one >= 1"
                raise ConfigError("eviction_policy", self.eviction_policy, f"{allowed}; it is {self.lineage_length}")
        for name, store in ITS_OWN.items():
            if (value := getattr(self, name)) is not None and self.model_store != store:
                raise ConfigError(name, value, f"None with model_store={self.model_store!r}; it is for {store!r}")
        if self.model_store == "Disk":
            _directory("directory", self.directory)
        if self.model_store_hostname is not None:
            hostname("model_store_hostname", self.model_store_hostname)
        if self.model_store_port is not None:
            integer("model_store_port", self.model_store_port, 1, 65_535)
        prefix = self.key_prefix
        if prefix is not None and not (isinstance(prefix, str) and 0 < len(prefix) <= 128 and prefix.isprintable()):
            raise ConfigError("key_prefix", prefix, "1 to 128 printable characters, such as 'hospitals-2026'")


def _directory(field: str, directory: object) -> None:
    is_path = isinstance(directory, str | Path) and directory != ""
    if not is_path or (Path(directory).exists() and not Path(directory).is_dir()):  # type: ignore[arg-type]
        raise ConfigError(field, directory, "the path of a directory, or of one to be made")
