"""The directory that a run's results are saved into: it has those of one run, and of that one all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

from metisfl_async.core.errors import ConfigError, StoreError
from metisfl_async.driver.result import FederationResult

__all__ = ["Output"]

logger = logging.getLogger("metisfl_async.cli")

FILES = ("results.json", "page.html", "model.safetensors", "best.safetensors", "results.png")


class Output:
    """A directory for the results of this run.

    Parameters
    ----------
    directory : Path
        Is made if need be.
    replaces : bool
        Whether results that are there may be replaced, once there are new ones.

    Raises
    ------
    ConfigError
        If it is no directory, or has results that are not to be replaced.
    """

    def __init__(self, directory: Path, *, replaces: bool) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            allowed = f"a directory that can be written to ({error.strerror})"
            raise ConfigError("--output", str(directory), allowed) from error
        self._directory = directory
        self._found = _files_in(directory)
        if self._found and not replaces:
            allowed = f"a directory without {', '.join(self._found)}; or give --overwrite"
            raise ConfigError("--output", str(directory), allowed)

    def save(self, result: FederationResult, *, has_page: bool) -> None:
        """Write what came of the run, and remove what is left of an earlier one.

        Raises
        ------
        StoreError
            If some of it cannot be written, once the rest is.
        """
        saved, failed = list[str](), dict[str, OSError]()
        try:
            directory = self._own_directory()
        except OSError as error:
            raise StoreError(str(self._directory), f"the results cannot be saved: {_why(error)}") from error
        for name, write in _writers(result, has_page=has_page).items():
            try:
                write(directory / name)
                saved.append(name)
            except OSError as error:
                (directory / name).unlink(missing_ok=True)  # half of it, or an earlier run's
                failed[name] = error
            except ImportError as error:
                logger.warning("no %s: %s", name, error)
        for name in set(FILES).difference(saved):
            (directory / name).unlink(missing_ok=True)
        if saved:
            logger.info("saved in %s: %s", directory.resolve(), ", ".join(sorted(saved, key=FILES.index)))
        if failed:
            (first, *_), names = failed.values(), ", ".join(failed)
            raise StoreError(str(directory.resolve()), f"not saved: {names}: {_why(first)}") from first

    def _own_directory(self) -> Path:
        """Give the directory; one below it, if another run has saved there since this one began."""
        if _files_in(self._directory).items() <= self._found.items():
            return self._directory
        for number in count(2):
            own = self._directory / f"run-{number}"
            try:
                own.mkdir()
            except FileExistsError:
                continue
            logger.warning("another run has saved in %s meanwhile; this one's results go below it", self._directory)
            return own
        raise AssertionError  # some number is free


def _writers(result: FederationResult, *, has_page: bool) -> dict[str, Callable[[Path], object]]:
    """Say how each file is written; what cannot be had again comes first, for there may be little room."""
    writers: dict[str, Callable[[Path], object]] = {}
    if result.final_model is not None:
        writers["model.safetensors"] = result.save_model
    if result.best_model is not None:
        writers["best.safetensors"] = partial(result.save_model, best=True)
    writers["results.json"] = result.save
    if has_page:
        writers["page.html"] = result.save_page
    if any(record.is_published for record in result.rounds):
        writers["results.png"] = result.plot
    return writers


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def _files_in(directory: Path) -> dict[str, tuple[int, int]]:
    """List the results in a directory, each with what tells it from one that replaces it."""
    found = {}
    for name in FILES:
        if (file := directory / name).exists():
            facts = file.stat()
            found[name] = facts.st_ino, facts.st_mtime_ns
    return found
