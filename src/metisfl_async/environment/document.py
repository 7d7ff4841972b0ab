"""Reads a YAML 1.2 file into nodes."""

from __future__ import annotations

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.nodes import Node as YamlNode

from metisfl_async.core.errors import ConfigError
from metisfl_async.environment.errors import ConfigFileError
from metisfl_async.environment.node import Node

__all__ = ["load", "scalar"]

MAX_VALUES = 100_000  #: with every alias written out; a small file could stand for billions
MERGE = "tag:yaml.org,2002:merge"


def load(file: Path) -> Node:
    """Read one document; `ConfigError` says where it is wrong."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the environment file", str(file), f"a YAML file that can be read ({error})") from error
    yaml = YAML(typ="safe", pure=True)
    try:
        root: YamlNode | None = yaml.compose(text)
        if root is None:
            raise ConfigFileError(str(file), 1, "the file", "empty", "the sections of an environment")
        _refuse_bombs(file, root)
        return _Reader(file, yaml.constructor).node(root, "", root.start_mark.line + 1)
    except (YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).partition("\n")[0]
        line = mark.line + 1 if mark is not None else 1
        raise ConfigFileError(str(file), line, "the syntax", what, "one YAML 1.2 document") from error


def scalar(text: str, field: str) -> object:
    """Read a value as YAML does: "3" is a number, "three" a string."""
    try:
        value: object = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(field, text, "a value in YAML, such as 3, three, [1, 2] or '{x: 1}'") from error
    return value


def _refuse_bombs(file: Path, root: YamlNode) -> None:
    waiting, count = [root], 0
    while waiting:
        node = waiting.pop()
        count += 1
        if count > MAX_VALUES:
            line = node.start_mark.line + 1
            raise ConfigFileError(
                str(file), line, "the number of values", f"> {MAX_VALUES}", "fewer, and no alias within itself"
            )
        if isinstance(node, MappingNode):
            waiting.extend(value for _, value in node.value)
        elif isinstance(node, SequenceNode):
            waiting.extend(node.value)


class _Reader:
    def __init__(self, file: Path, constructor: SafeConstructor) -> None:
        self._file, self._constructor = file, constructor

    def node(self, yaml: YamlNode, path: str, line: int) -> Node:
        place = Node(self._file, path, line, None)
        if isinstance(yaml, ScalarNode):
            return Node(self._file, path, line, self._constructor.construct_object(yaml))
        if yaml.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise place.error(yaml.tag, "values without a tag")
        if isinstance(yaml, SequenceNode):
            items = [
                self.node(item, f"{path}[{index}]", item.start_mark.line + 1) for index, item in enumerate(yaml.value)
            ]
            return Node(self._file, path, line, items)
        assert isinstance(yaml, MappingNode)
        values: dict[str, Node] = {}
        for key_node, value in yaml.value:
            line_of_key = key_node.start_mark.line + 1
            if key_node.tag == MERGE:
                raise place.key_error("<<", "keys that are written out; YAML 1.2 has no merge key", line_of_key)
            key = self._constructor.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise place.key_error(key, "a string", line_of_key)
            if key in values:
                raise place.key_error(key, f"each key once; it stands in line {values[key].line} too", line_of_key)
            values[key] = self.node(value, f"{path}.{key}" if path else key, line_of_key)
        return Node(self._file, path, line, values)
