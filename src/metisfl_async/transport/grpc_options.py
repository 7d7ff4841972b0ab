"""How channels and servers are set up; docs/design.md says what each option was measured to do."""

from __future__ import annotations

import json

from metisfl_async.codec.frame import MAX_FRAME_BYTES

__all__ = ["CHANNEL_OPTIONS", "GUARDED_OPTIONS", "LEARNER_SERVICE", "SERVER_OPTIONS", "SERVICE", "TOKEN"]

SERVICE = "metisfl_async.v1.Controller"
LEARNER_SERVICE = "metisfl_async.v1.Learner"
TOKEN = "metisfl-token"  #: of a join, in the metadata of calls that carry a model and no message of ours

# A frame is bounded, the number of frames is not. Only what a driver is told has every learner in one message.
_FRAME_BYTES = MAX_FRAME_BYTES + 1024
_NEWS_BYTES = 2**30
IDLE_MS = 120_000  #: after so long without a call, the server closes a connection; whoever calls again dials again
_LIMITS = {
    "methodConfig": [
        {"name": [{"service": SERVICE}, {"service": LEARNER_SERVICE}], "maxResponseMessageBytes": _FRAME_BYTES},
        {
            "name": [{"service": SERVICE, "method": method} for method in ("WatchEvents", "GetLogs")],
            "maxResponseMessageBytes": _NEWS_BYTES,
        },
    ]
}

_BOTH = [
    # One HTTP/2 frame for a chunk: with frames of 16 KiB, each would be cut into 64 pieces and put together again.
    ("grpc.http2.max_frame_size", 2**20 + 2**14),
    # What nobody reads is buffered below us, per stream: 1 MiB costs no speed, probing would take 6 MiB.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 2**20),
    # A peer that vanished without a word is noticed after about 80 s. Where buffers are deep and the link is slow, a
    # ping is answered after half a minute. The second timeout is TCP's, which also counts while a reader's window is
    # full: with a minute, it ended connections through a tunnel that read 100 kB a second.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 600_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]

# With the pause before a refusal, this bounds what one connection of a stranger costs.
GUARDED_OPTIONS = [("grpc.max_concurrent_streams", 100)]

CHANNEL_OPTIONS = [
    *_BOTH,
    ("grpc.max_send_message_length", _FRAME_BYTES),
    ("grpc.max_receive_message_length", _NEWS_BYTES),
    ("grpc.service_config", json.dumps(_LIMITS)),
    ("grpc.enable_retries", 0),  # the one layer that tries again is the caller
    ("grpc.use_local_subchannel_pool", 1),  # a channel is a connection: learners of one process do not share one
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name, how long an attempt may take: over a slow link, or among a thousand that dial at once.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]

SERVER_OPTIONS = [
    *_BOTH,
    ("grpc.max_send_message_length", _NEWS_BYTES),
    ("grpc.max_receive_message_length", _FRAME_BYTES),
    ("grpc.per_message_decompression", 0),  # 4 KB of a stranger's would be 4 MiB, and cost as much
    ("grpc.so_reuseport", 0),  # a second controller on the same port must fail
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # below the clients' keepalive time
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.http2.settings_timeout", 30_000),  # before a client has acknowledged them, its headers may have 16 MiB
    ("grpc.max_connection_idle_ms", IDLE_MS),
    # Of calls that wait to be looked at, gRPC drops some from 1,000 on, which thousands that dial at once reach.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
]
