"""The catalogue of attacks: what is tried, as whom, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from attackers import insiders, strangers
from attackers.ground import Attack

__all__ = ["ROWS", "Row"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """An attack, and what comes of it."""

    attack: Attack
    told: str  #: what the attacker hears
    insiders: tuple[str, ...] = ()  #: learners with a task that attack
    counts: bool = False  #: whether the insider's update is in the model, as if nothing were wrong with it
    failure: str = ""  #: as what the record of the first round names it
    size: int = 100  #: weights of the model
    config: Mapping[str, Any] = field(default_factory=dict)


def stranger(attack: Attack, told: str, **facts: Any) -> Row:
    return Row(attack=attack, told=told, **facts)


def insider(attack: Attack, told: str, failure: str = "lost", **facts: Any) -> Row:
    return Row(attack=attack, told=told, failure=failure, **{"insiders": ("insider",)} | facts)


def counts(attack: Attack, told: str = "folded", failure: str = "", **facts: Any) -> Row:
    return insider(attack, told, failure, counts=True, **facts)


DENIED, TOO_LARGE, DAMAGED = "UNAUTHENTICATED AccessDenied", "INVALID_ARGUMENT TooLarge", "INVALID_ARGUMENT Damaged"
NOT_NOW = "FAILED_PRECONDITION UnexpectedMessage"


ROWS: dict[str, Row] = {
    "HTTP/1.1 on the port": stranger(strangers.http_1, "closed"),
    "a hello of TLS": stranger(strangers.tls_hello, "closed"),
    "garbage after the preface": stranger(strangers.garbage_after_the_preface, "closed"),
    "requests without an end": stranger(strangers.requests_without_an_end, "200 x ended"),
    "headers without an end": stranger(strangers.headers_without_an_end, "1 x ended"),
    "resets and pings": stranger(strangers.resets_and_pings, "1 x ended"),
    "200 connections without a call": stranger(strangers.open_connections, "nothing"),
    "a StartRequest of 3 MB": stranger(strangers.large_start, f"2 x {DENIED}, {TOO_LARGE}"),
    "first weights while it runs": stranger(
        strangers.first_weights_while_it_runs,
        f"2 x {DENIED}, 11 x {NOT_NOW}",
    ),
    "100 WatchEvents unread": stranger(strangers.unread_events, "nothing"),
    "bombs of gzip": stranger(strangers.gzip_bombs, f"2 x {DENIED}, {DAMAGED}, FAILED_PRECONDITION UnknownLearner"),
    "1,000 calls given up": stranger(strangers.calls_that_are_given_up, "1 refused"),
    "wrong tokens": stranger(strangers.wrong_tokens, "200 refused, RESOURCE_EXHAUSTED ConnectionLost"),
    "500 joins": stranger(strangers.floods_of_joins, "500 refused"),
    "200 joins as another": stranger(strangers.joins_as_another, "200 refused"),
    "wild ids": stranger(strangers.wild_ids, f"{TOO_LARGE}, 2 x {DENIED}, OK"),
    "millions of numbers": insider(insiders.millions_of_numbers, f"2 x {TOO_LARGE}"),
    "lists of 100,000 numbers": insider(insiders.lists_of_100_000_numbers, f"{TOO_LARGE}, {DAMAGED}"),
    "nested lists": insider(insiders.nested_lists, f"3 x {DAMAGED}"),
    "16,384 tensors of 32 dimensions": insider(insiders.many_dimensions, TOO_LARGE),
    "10 headers of 16,384 tensors": insider(insiders.many_headers, f"10 x {DAMAGED}"),
    "25 headers of 4,000 metrics": insider(insiders.many_facts, f"25 x {DAMAGED}"),
    "a terabyte": insider(insiders.a_terabyte, f"{DAMAGED}, refused", "TooLarge"),
    "overlapping tensors": insider(insiders.overlapping_tensors, DAMAGED),
    "another dtype": insider(insiders.another_dtype, "INVALID_ARGUMENT UnknownDtype, refused", "UnexpectedMessage"),
    "a wrong digest": insider(insiders.wrong_digest, "3 x damaged, refused", "Damaged"),
    "frames out of order": insider(insiders.out_of_order, "3 x damaged, refused", "Damaged"),
    "no end frame": insider(insiders.no_end, "Truncated"),
    "an update in tiny frames": insider(insiders.tiny_frames, "damaged", size=5_000),
    "a byte now and then": insider(
        insiders.trickle,
        "UNAVAILABLE ConnectionLost",
        config={"upload_idle_secs": 0.3, "min_upload_bytes_per_sec": 1e6},
    ),
    "an update again": counts(insiders.a_replayed_update, "folded, 5 x counted, 2 x refused", "OtherContent"),
    "the task of another": counts(
        insiders.the_task_of_another, "refused, Settled, folded", insiders=("insider", "accomplice")
    ),
    "NaN": insider(insiders.not_finite, "refused", "NotFinite"),
    "an infinity": insider(insiders.infinite, "refused", "NotFinite"),
    **{
        f"{number} examples": insider(partial(insiders.claims, number), "refused", "ConfigError")
        for number in (1e12, 1e-320, math.nan, math.inf, -1.0, 0.0)
    },
    "metrics of 1e300": counts(insiders.wild_metrics),
    "1e30 ms for a batch": counts(
        insiders.slow_claims, config={"scheduler": "SemiSynchronous", "semi_sync_lambda": 1.0}
    ),
    "a failure of 100 kB": insider(insiders.a_long_failure, "Settled", "E\\n" * 32 + "E..."),
    "two Tasks streams": insider(insiders.two_streams, "20 x FAILED_PRECONDITION Superseded"),
    "200 joins of its own": insider(insiders.joins_again, "FAILED_PRECONDITION UnknownLearner"),
    "3,000 heartbeats": insider(insiders.heartbeats, "nothing"),
    "FetchModel again and again, unread": insider(
        insiders.unread_downloads,
        "30 are open, then UNAVAILABLE ConnectionLost",
        size=2**20,
    ),
}
