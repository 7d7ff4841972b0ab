"""What a directory's commits have said: one transaction for each, in SQLite."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from metisfl_async.store.durable import Found
from metisfl_async.store.kept import Change, Kept

__all__ = ["Journal"]

TABLES = (
    """CREATE TABLE IF NOT EXISTS federations (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, commits INTEGER NOT NULL DEFAULT 0,
        standing TEXT NOT NULL, version INTEGER, arrays TEXT, is_finished INTEGER NOT NULL DEFAULT 0)""",
    """CREATE TABLE IF NOT EXISTS models (
        federation TEXT NOT NULL, name TEXT NOT NULL, owner TEXT NOT NULL,
        PRIMARY KEY (federation, name)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS rounds (
        federation TEXT NOT NULL, number INTEGER NOT NULL, text TEXT NOT NULL,
        PRIMARY KEY (federation, number))""",
)


class Journal:
    """A database that one thread at a time uses.

    After an error the connection is made anew, because only the file knows what has happened then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def unfinished(self) -> str | None:
        rows = self._all("SELECT id, is_finished FROM federations ORDER BY number DESC LIMIT 1")
        return str(rows[0][0]) if rows and not rows[0][1] else None

    def federations(self) -> list[str]:
        return [row[0] for row in self._all("SELECT id FROM federations ORDER BY number")]

    def begin(self, federation_id: str, standing: str) -> bool:
        """Add a federation, and say whether its id is new."""
        done = self._all(
            "INSERT INTO federations (id, standing) VALUES (?, ?) ON CONFLICT (id) DO UPDATE"
            " SET standing = excluded.standing WHERE commits = 0 RETURNING id",
            (federation_id, standing),
        )
        return bool(done)

    def find(self, federation_id: str) -> Found | None:
        rows = self._all("SELECT standing, commits, version, arrays FROM federations WHERE id = ?", (federation_id,))
        if not rows:
            return None
        standing, commits, version, arrays = rows[0]
        ((rounds,),) = self._all("SELECT count(*) FROM rounds WHERE federation = ?", (federation_id,))
        models = defaultdict[str, list[str]](list)
        for owner, name in self._all(
            "SELECT owner, name FROM models WHERE federation = ? ORDER BY name", (federation_id,)
        ):
            models[owner].append(name)
        return Found(Kept(federation_id, commits, version, arrays, rounds, dict(models)), standing)

    def commits(self, federation_id: str) -> int:
        ((commits,),) = self._all("SELECT commits FROM federations WHERE id = ?", (federation_id,))
        return int(commits)

    def rounds(self, federation_id: str, start: int, count: int) -> list[str]:
        asked = "SELECT text FROM rounds WHERE federation = ? AND number >= ? ORDER BY number LIMIT ?"
        return [row[0] for row in self._all(asked, (federation_id, start, count))]

    def commit(self, change: Change) -> None:
        federation = change.federation_id
        try:
            self._execute("BEGIN IMMEDIATE")
            self._execute(
                "UPDATE federations SET commits = ?, standing = ?, version = ?, arrays = ?, is_finished = ?"
                " WHERE id = ?",
                (change.number, change.standing, change.version, change.arrays, change.is_finished, federation),
            )
            if change.is_all:
                self._execute("DELETE FROM models WHERE federation = ?", (federation,))
            self._many(
                "DELETE FROM models WHERE federation = ? AND name = ?",
                ((federation, entry.name) for entry in change.removed),
            )
            self._many(
                "INSERT INTO models VALUES (?, ?, ?)", ((federation, entry.name, entry.owner) for entry in change.added)
            )
            self._execute("DELETE FROM rounds WHERE federation = ? AND number >= ?", (federation, change.first_round))
            numbered = enumerate(change.rounds, change.first_round)
            self._many("INSERT INTO rounds VALUES (?, ?, ?)", ((federation, number, text) for number, text in numbered))
            self._execute("COMMIT")
        except BaseException:
            self._give_up()
            raise

    def _many(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        for row in rows:
            self._execute(statement, row)

    def _all(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._execute(statement, values).fetchall()
        except BaseException:
            self._give_up()
            raise

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        return self._connected().execute(statement, values)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            try:
                connection.text_factory = _in_text
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                for table in TABLES:
                    connection.execute(table)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _give_up(self) -> None:
        """Forget the connection, and with it a transaction that was not finished."""
        with suppress(sqlite3.Error):  # it is gone in any case
            self.close()


def _in_text(value: bytes) -> str:
    """Read text; what is damaged is no error here, for it is seen where it is used."""
    return value.decode(errors="replace")
