"""The one border where gRPC's errors become ours, and ours travel through gRPC: by name, with their facts."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

import grpc
import grpc.aio

from metisfl_async.core import errors
from metisfl_async.core.errors import (
    AccessDenied,
    ConnectionLost,
    MetisError,
    PeerTimeout,
    TransportError,
    UnexpectedMessage,
)
from metisfl_async.core.texts import plain

__all__ = ["ours", "theirs"]

logger = logging.getLogger(__name__)

MAX_FACT = 400  #: characters; gRPC drops a status of more than 8 KiB, and the caller would not know why

_BY_NAME = {
    name: getattr(errors, name)
    for name in errors.__all__
    if isinstance(getattr(errors, name), type) and not issubclass(getattr(errors, name), TransportError)
}


@asynccontextmanager
async def theirs(context: grpc.aio.ServicerContext, method: str) -> AsyncIterator[None]:
    """Around a handler: end the call with an error that `ours` understands at the other end."""
    try:
        yield
    except TransportError as error:  # towards us, or in the controller's patience with the caller: may be tried again
        await _abort(context, grpc.StatusCode.UNAVAILABLE, str(error)[:MAX_FACT])
    except MetisError as error:
        logger.debug("%s refused: %s", method, plain(str(error)))
        code = grpc.StatusCode.FAILED_PRECONDITION
        if isinstance(error, AccessDenied):
            code = grpc.StatusCode.UNAUTHENTICATED
        elif isinstance(error, ValueError):
            code = grpc.StatusCode.INVALID_ARGUMENT
        facts = [fact if isinstance(fact, int | float | bool | None) else str(fact)[:MAX_FACT] for fact in error.args]
        await _abort(context, code, json.dumps({"error": type(error).__name__, "facts": facts}))
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError as error:  # what a call that has ended says to whoever goes on writing
        logger.debug("%s: the caller is gone: %s", method, error)
    except Exception:
        logger.exception("a bug in %s", method)
        await _abort(context, grpc.StatusCode.INTERNAL, f"it failed in {method}; its log says how")


async def _abort(context: grpc.aio.ServicerContext, code: grpc.StatusCode, details: str) -> None:
    try:
        await context.abort(code, details)
    except grpc.aio.InternalError as error:
        logger.debug("nobody hears %s: %s", details, error)


class ours:  # noqa: N801 - it is used as a function that makes a context
    """Around a call: raise our errors instead of gRPC's. It remembers nothing: one goes around any number of calls."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __enter__(self) -> None:
        """Nothing is to be prepared."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, grpc.aio.AioRpcError):
            raise _translate(self.address, error) from error
        if isinstance(error, grpc.aio.UsageError):  # the channel was closed under the call
            raise ConnectionLost(self.address, str(error)) from error


def _translate(address: str, error: grpc.aio.AioRpcError) -> MetisError:
    details = error.details() or ""
    shown = plain(details.replace("%5B", "[").replace("%5D", "]"))  # of the addresses of IPv6, as gRPC writes them
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.FAILED_PRECONDITION | grpc.StatusCode.UNAUTHENTICATED:
            try:
                told = json.loads(details)
                facts = [plain(fact) if isinstance(fact, str) else fact for fact in told["facts"]]
                return _BY_NAME[told["error"]](*facts)  # type: ignore[no-any-return]
            except (ValueError, KeyError, TypeError):
                return UnexpectedMessage(f"{address} refused: {shown}")
        case grpc.StatusCode.UNIMPLEMENTED:
            return UnexpectedMessage(f"{address} does not serve metisfl_async of this version: {shown}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return PeerTimeout(address, shown)
        case code:
            return ConnectionLost(address, f"{shown} ({code.name})" if details else code.name)
