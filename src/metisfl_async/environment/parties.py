"""Reads who is where: the controller's section and the learners' entries."""

from __future__ import annotations

from dataclasses import fields

from metisfl_async.core.spelling import snake
from metisfl_async.environment import vocabulary
from metisfl_async.environment.endpoint import Endpoint
from metisfl_async.environment.entries import LearnerEntry
from metisfl_async.environment.gathering import Gathering, Words
from metisfl_async.environment.node import Node

__all__ = ["read_controller", "read_learners"]


ENDPOINT = [field.name for field in fields(Endpoint) if field.init]


def read_controller(section: Node) -> Gathering[Endpoint]:
    """Find where the controller is."""
    endpoint = Gathering(Endpoint, section)
    for key, node in _beside_metisfl(section, endpoint).items():
        endpoint.take_key(section, key, node, vocabulary.CONTROLLER)
    return endpoint


def read_learners(section: Node) -> list[LearnerEntry]:
    """Make an entry for each learner; a number stands for so many without a name."""
    if type(section.value) is int:
        if section.value < 1:
            raise section.error(section.value, "a number >= 1, or a list with an entry for each learner")
        return [LearnerEntry()] * section.value
    if not section.items():
        raise section.error([], "at least one entry; it may be empty: - {}")
    entries: dict[str, LearnerEntry] = {}
    made: list[LearnerEntry] = []
    for item in section.items():
        found, endpoint = Gathering(LearnerEntry, item), Gathering(Endpoint, item)
        for key, node in _beside_metisfl(item, endpoint).items():
            (endpoint if snake(key) in ENDPOINT else found).take_key(item, key, node, vocabulary.LEARNER)
        if endpoint.found and "port" not in endpoint.found:
            raise item.error_at("port", None, "the port it listens on; a learner that dials the controller has no host")
        entry = found.make(endpoint=Endpoint.made_of(endpoint) if endpoint.found else None)
        if entry.learner_id and entry.learner_id in entries:
            node = found.found["learner_id"]
            raise node.error(entry.learner_id, "each learner_id once")
        entries[entry.learner_id] = entry
        made.append(entry)
    return made


def _beside_metisfl(section: Node, endpoint: Gathering[Endpoint]) -> dict[str, Node]:
    """Take MetisFL's nested sections into the endpoint, and give the keys that stand beside them.

    A ConnectionConfig has the host that others reach; then a GRPCServer's is the interface that it listens on.
    """
    keys = section.mapping()
    nested = {
        snake(key): keys.pop(key)
        for key in list(keys)
        if snake(key) in ("connection_config", "grpc_server", "ssl_config")
    }
    connection, server, ssl = (nested.get(name) for name in ("connection_config", "grpc_server", "ssl_config"))
    if connection is not None:
        endpoint.take(connection, vocabulary.CONNECTION)
    if server is not None:
        is_reached_elsewhere = "hostname" in endpoint.found
        endpoint.take(server, Words(aliases={"hostname": "listen_hostname"} if is_reached_elsewhere else {}))
    if ssl is not None:
        endpoint.take(ssl, vocabulary.SSL)
        if "server_certificate" in endpoint.found:  # it has signed itself, unless a root is named
            endpoint.found.setdefault("root_certificate", endpoint.found["server_certificate"])
    endpoint.section = section
    return keys
