from __future__ import annotations

import math
from pathlib import Path

import pytest

from metisfl_async import ConfigError, ModelStoreConfig
from metisfl_async.core.errors import brief

PREFIX = "1 to 128 printable characters, such as 'hospitals-2026'"
DIRECTORY = "the path of a directory, or of one to be made"
HOST = "a host name or an IP address, nothing else"
OUTLIVES = "1, or use a model store that outlives the controller: Disk, or Redis with a key_prefix"
EVICTION = "NoEviction with lineage_length=0, which keeps all; LineageLengthEviction with one >= 1; it is "


@pytest.mark.parametrize(
    ("options", "field", "value", "allowed"),
    [
        ({"model_store": "Cloud"}, "model_store", "Cloud", "InMemory, Disk, Redis"),
        ({"model_store": None}, "model_store", None, "InMemory, Disk, Redis"),
        *(
            ({"lineage_length": value}, "lineage_length", value, "an integer >= 0")
            for value in (-1, None, 1.0, "1", True)
        ),
        *(
            ({"history_bytes": value}, "history_bytes", value, "an integer >= 1")
            for value in (0, -1, None, 1.0, "1", True)
        ),
        *(
            ({"durable_every": value}, "durable_every", value, "an integer >= 1")
            for value in (0, -1, None, 1.0, "1", True)
        ),
        ({"durable_every": 2}, "durable_every", 2, OUTLIVES),
        ({"model_store": "Redis", "durable_every": 2}, "durable_every", 2, OUTLIVES),
        *(
            ({"retry_secs": value}, "retry_secs", value, "a finite number > 0")
            for value in (0, -1.5, math.inf, math.nan, "60", True)
        ),
        ({"keep_local_models": "yes"}, "keep_local_models", "yes", "True, False"),
        ({"keep_local_models": 1}, "keep_local_models", 1, "True, False"),
        ({"eviction_policy": "LFU"}, "eviction_policy", "LFU", "NoEviction, LineageLengthEviction"),
        ({"eviction_policy": "NoEviction"}, "eviction_policy", "NoEviction", EVICTION + "1"),
        (
            {"eviction_policy": "LineageLengthEviction", "lineage_length": 0},
            "eviction_policy",
            "LineageLengthEviction",
            EVICTION + "0",
        ),
        ({"directory": "models"}, "directory", "models", "None with model_store='InMemory'; it is for 'Disk'"),
        (
            {"model_store": "Redis", "directory": "models"},
            "directory",
            "models",
            "None with model_store='Redis'; it is for 'Disk'",
        ),
        *(
            ({"model_store": store, name: value}, name, value, f"None with model_store={store!r}; it is for 'Redis'")
            for store in ("InMemory", "Disk")
            for name, value in (("model_store_hostname", "a"), ("model_store_port", 6379), ("key_prefix", "a"))
        ),
        ({"model_store": "Disk"}, "directory", None, DIRECTORY),
        *(({"model_store": "Disk", "directory": value}, "directory", value, DIRECTORY) for value in ("", 1, b"models")),
        ({"model_store": "Disk", "directory": __file__}, "directory", __file__, DIRECTORY),
        *(
            ({"model_store": "Redis", "model_store_hostname": value}, "model_store_hostname", value, HOST)
            for value in ("", "redis://a", "a:6379", 1)
        ),
        *(
            (
                {"model_store": "Redis", "model_store_port": value},
                "model_store_port",
                value,
                "an integer >= 1 and <= 65535",
            )
            for value in (0, 65_536, "6379")
        ),
        *(
            ({"model_store": "Redis", "key_prefix": value}, "key_prefix", value, PREFIX)
            for value in ("", "a" * 129, "\n", 1)
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    options: dict[str, object], field: str, value: object, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelStoreConfig(**options)  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.value, caught.value.allowed) == (field, value, allowed)
    assert str(caught.value) == f"{field} is {brief(value)}; allowed: {allowed}"


def test_right_values_are_taken(tmp_path: Path) -> None:
    assert ModelStoreConfig() == ModelStoreConfig(model_store="InMemory", lineage_length=1, keep_local_models=False)
    ModelStoreConfig(retry_secs=None, history_bytes=1)
    ModelStoreConfig(model_store="Redis", key_prefix="nightly", durable_every=50)
    ModelStoreConfig(lineage_length=0, eviction_policy="NoEviction", keep_local_models=True)
    ModelStoreConfig(lineage_length=3, eviction_policy="LineageLengthEviction")
    ModelStoreConfig(model_store="Disk", directory=tmp_path)
    ModelStoreConfig(model_store="Disk", directory=str(tmp_path / "not" / "there"))
    ModelStoreConfig(model_store="Redis")
    ModelStoreConfig(
        model_store="Redis",
        model_store_hostname="::1",
        model_store_port=65_535,
        key_prefix="Süd: *[1]",
        lineage_length=0,
    )
