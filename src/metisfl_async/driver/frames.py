"""Records as tables: a row for each round, or for each learner of each round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.records import LearnerRecord, RoundRecord

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["By", "arrow_table", "data_frame"]

By: TypeAlias = Literal["round", "learner"]

KINDS = {"bool": "bool", "int": "int64", "float": "double", "str": "string"}  #: as pyarrow calls them


def data_frame(records: Sequence[RoundRecord], by: By) -> pd.DataFrame:
    """Make a pandas frame."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ConfigError("pandas", None, "a package that is installed, for to_frame: pip install pandas") from error
    names = _columns(records, by)
    return pd.DataFrame(list(_rows(records, by)), columns=list(names))


def arrow_table(records: Sequence[RoundRecord], by: By) -> pa.Table:
    """Make an Arrow table; a column has the same type in each federation."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ConfigError("pyarrow", None, "a package that is installed, for to_arrow: pip install pyarrow") from error
    schema = [(name, pa.type_for_alias(kind)) for name, kind in _columns(records, by).items()]
    return pa.Table.from_pylist(list(_rows(records, by)), schema=pa.schema(schema))


def _columns(records: Sequence[RoundRecord], by: By) -> dict[str, str]:
    """Name the columns, with their types: the fields that hold one value, and then all metrics."""
    if by not in ("round", "learner"):
        raise ConfigError("by", by, "'round' or 'learner'")
    first = {"number": "int64", "learner": "string"} if by == "learner" else {}
    facts = first | _kinds(RoundRecord if by == "round" else LearnerRecord)
    measured = {name for row in _rows(records, by) for name in row} - facts.keys()
    return facts | dict.fromkeys(sorted(measured), "double")


def _rows(records: Sequence[RoundRecord], by: By) -> Iterator[dict[str, Any]]:
    for record in records:
        if by == "round":
            beside = {"central": record.central, "privacy": record.privacy}
            named = {f"{kind}/{name}": value for kind, values in beside.items() for name, value in values.items()}
            yield _facts(record) | _metrics(record) | named
        else:
            for learner, part in record.learners.items():
                yield {"number": record.number, "learner": learner} | _facts(part) | _metrics(part)


def _facts(of: RoundRecord | LearnerRecord) -> dict[str, Any]:
    return {name: getattr(of, name) for name in _kinds(type(of))}


def _metrics(of: RoundRecord | LearnerRecord) -> dict[str, float]:
    train = {f"train/{name}": value for name, value in of.train_metrics.items()}
    return train | {f"evaluation/{name}": value for name, value in of.evaluation_metrics.items()}


def _kinds(of: type[RoundRecord | LearnerRecord]) -> dict[str, str]:
    """Give the fields that hold one value, or None, with their types."""
    kinds = {field.name: str(field.type).removesuffix(" | None") for field in fields(of)}
    return {name: KINDS[kind] for name, kind in kinds.items() if kind in KINDS}
