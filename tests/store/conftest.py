"""A place for each kind of store."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from stores import Directory, Place, Prefix


@pytest.fixture(params=["InMemory", "Disk", "Redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "Disk":
            return Directory(model_store="Disk", directory=tmp_path / "some" / "models")
        case "Redis":
            port = request.getfixturevalue("redis_server").port
            return Prefix(model_store="Redis", model_store_port=port, key_prefix=secrets.token_hex(8))
        case _:
            return Place()
