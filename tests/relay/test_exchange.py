"""A sum is taken for a model; where none will come, that is said whenever the sum comes."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from metisfl_async.controller.exchange import Exchange, Summed
from metisfl_async.core.model import Model
from metisfl_async.errors import NoModel

MODEL = Model.from_arrays([np.zeros(2)])
SUMMED = Summed(MODEL, "raw", MODEL.manifest, {})


async def test_a_sum_waits_for_its_model() -> None:
    exchange = Exchange()
    swapping = asyncio.create_task(exchange.swap(SUMMED))
    await exchange.arrived.wait()
    assert exchange.summed is SUMMED
    exchange.give(MODEL)
    assert not exchange.arrived.is_set()
    assert await swapping is MODEL


async def test_a_refusal_holds_for_what_is_there_and_for_what_comes_until_it_is_opened_again() -> None:
    exchange = Exchange()
    swapping = asyncio.create_task(exchange.swap(SUMMED))
    await exchange.arrived.wait()
    exchange.refuse("it is over")
    with pytest.raises(NoModel, match="it is over"):
        await swapping
    with pytest.raises(NoModel, match="it is over"):
        await exchange.swap(SUMMED)
    exchange.open()
    swapping = asyncio.create_task(exchange.swap(SUMMED))
    await exchange.arrived.wait()
    exchange.give(MODEL)
    assert await swapping is MODEL


async def test_a_sum_that_is_taken_back_says_nothing_of_the_next_one() -> None:
    exchange = Exchange()
    exchange.take_back("there is none")
    swapping = asyncio.create_task(exchange.swap(SUMMED))
    await exchange.arrived.wait()
    exchange.take_back("it is too large")
    with pytest.raises(NoModel, match="it is too large"):
        await swapping
    assert exchange.summed is None
    swapping = asyncio.create_task(exchange.swap(SUMMED))
    await exchange.arrived.wait()
    exchange.give(MODEL)
    assert await swapping is MODEL
