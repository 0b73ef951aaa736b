"""The journal's body on disk: SQLite, a write-ahead log, one transaction for each batch, flushed.

The flush runs in a thread, so the loop goes on; what is decided meanwhile gathers for the next one.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import trio

from protocol.hosting.journal import FORMAT, DamagedJournal, Gathering, Row


class StoreError(Exception):
    """The directory cannot keep a journal; the text says why and what would help."""


class Store:
    """Rows in a file, and the journal that gathers before it."""

    def __init__(self, path: Path) -> None:
        self.journal = Gathering(self._ring)
        self.commits = 0
        self._rung = trio.Event()
        self._path = path
        try:
            self._file = sqlite3.connect(path, timeout=0.2, isolation_level=None, check_same_thread=False)
            self._open()
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {_why(error)}") from error

    def _open(self) -> None:
        file = self._file
        file.execute("PRAGMA locking_mode = EXCLUSIVE")  # one service for one directory
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = FULL")
        (found,) = file.execute("PRAGMA user_version").fetchone()
        if found not in (0, FORMAT):
            raise StoreError(f"{self._path}: a journal of format {found}; this program reads {FORMAT}")
        file.execute("BEGIN EXCLUSIVE")
        file.execute(
            "CREATE TABLE IF NOT EXISTS rows"
            " (kind TEXT NOT NULL, id BLOB NOT NULL, data BLOB NOT NULL, PRIMARY KEY (kind, id))"
            " WITHOUT ROWID"
        )
        file.execute(f"PRAGMA user_version = {FORMAT}")
        file.execute("COMMIT")

    def load(self) -> tuple[Row, ...]:
        """What a former life left. Raises StoreError."""
        try:
            rows = tuple(Row(*row) for row in self._file.execute("SELECT kind, id, data FROM rows"))
            self.journal.found(rows)
        except (sqlite3.Error, DamagedJournal) as error:
            raise StoreError(f"{self._path}: {error}") from error
        return rows

    async def run(self) -> None:
        """Keep what gathers, until cancelled. Raises StoreError: then nothing more may be decided."""
        while True:
            await self._rung.wait()
            self._rung = trio.Event()
            while batch := self.journal.take():
                try:
                    await trio.to_thread.run_sync(self._commit, batch)
                except sqlite3.Error as error:
                    raise StoreError(f"{self._path}: {_why(error)}") from error
                self.commits += 1
                self.journal.committed()

    def close(self) -> None:
        self._file.close()

    def _commit(self, batch: list[Row]) -> None:
        file = self._file
        file.execute("BEGIN")
        file.executemany(
            "INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", [row for row in batch if row.data is not None]
        )
        file.executemany(
            "DELETE FROM rows WHERE kind = ? AND id = ?", [row[:2] for row in batch if row.data is None]
        )
        file.execute("COMMIT")

    def _ring(self) -> None:
        self._rung.set()


def _why(error: sqlite3.Error) -> str:
    if "locked" in str(error):
        return "in use by another hosting service; one directory has one service"
    return str(error)
