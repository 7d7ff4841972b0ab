"""The code of the example with LoRA, on a language model that is small enough for tests."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples" / "lora"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in ("lora", "texts", "fine_tune"):
        sys.modules.pop(name, None)


class Letters(torch.nn.Module):  # type: ignore[misc]
    """Attention over bytes, with the outputs and the names of a model of Hugging Face's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(128, 32)
        self.q_proj, self.k_proj, self.v_proj = (torch.nn.Linear(32, 32) for _ in range(3))
        self.lm_head = torch.nn.Linear(32, 128)

    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        x = self.embedding(input_ids)
        attention = torch.nn.functional.scaled_dot_product_attention
        x = x + attention(self.q_proj(x), self.k_proj(x), self.v_proj(x), is_causal=True)
        logits = self.lm_head(x)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return SimpleNamespace(loss=loss, logits=logits)


def letters(**options: Any) -> Any:
    from lora import add_lora

    torch.manual_seed(1)
    return add_lora(Letters(), ["q_proj", "v_proj", "lm_head"], 4, **options)


def learners_of(models: list[Any]) -> list[Any]:
    import fine_tune
    from texts import texts

    learners = []
    for model, text in zip(models, texts(len(models), 5000), strict=True):
        examples = fine_tune.windows(torch.tensor(list(text.encode("ascii", "replace"))))
        halves = [{name: rows[part::2] for name, rows in examples.items()} for part in (0, 1)]
        learners += fine_tune.learners_of(model, [(halves[0], halves[1])], learning_rate=1e-2)
    return learners


async def test_three_learners_fine_tune_adapters_on_one_frozen_base() -> None:
    import fine_tune

    model = letters()
    learners = learners_of([model] * 3)
    names = learners[0].weight_names()
    assert names == [f"{layer}.lora_{ab}" for layer in ("q_proj", "v_proj", "lm_head") for ab in "AB"]
    for name, weight in model.named_parameters():  # the base is in memory once, adapters are each learner's own
        addresses = {learner.model.get_parameter(name).data_ptr() for learner in learners} | {weight.data_ptr()}
        assert len(addresses) == (4 if name in names else 1)
    base = model.q_proj.layer.weight.clone()
    first = learners[0].get_weights()
    before = np.mean([learner.evaluate(first, {})["loss"] for learner in learners])
    result = await fine_tune.federate(learners)
    losses = [record.evaluation_metrics["loss"] for record in result.rounds]
    assert before > losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.9 * before
    assert (model.q_proj.layer.weight == base).all()
    result.load_into(model)
    assert model.lm_head.lora_B.abs().sum() > 0


async def test_with_a_frozen_a_only_b_travels() -> None:
    import fine_tune

    learners = learners_of([letters(trains_a=False)] * 2)
    assert learners[0].weight_names() == ["q_proj.lora_B", "v_proj.lora_B", "lm_head.lora_B"]
    result = await fine_tune.federate(learners, rounds=1)
    assert result.rounds[0].participants == ["learner-0", "learner-1"]
    assert learners[0].model.q_proj.lora_A is learners[1].model.q_proj.lora_A


async def test_learners_of_different_ranks_share_what_they_have_room_for() -> None:
    import fine_tune

    learners = learners_of([letters(own_rank=1), letters(own_rank=3)])
    first = learners[0].get_weights()
    updates = [learner.train(first, {"batch_size": 8, "epochs": 2})[0] for learner in learners]
    for rank, (a, b, *_) in zip((1, 3), updates, strict=True):
        assert (a[rank:] == first[0][rank:]).all()  # what is beyond its rank, a learner leaves as it came
        assert (a[:rank] != first[0][:rank]).any()
        assert not b[:, rank:].any()
    result = await fine_tune.federate(learners, rounds=2, rule="LoRAStacked")
    b = result.named_arrays()["lm_head.lora_B"]
    sizes = np.linalg.norm(b, axis=0)
    assert (np.diff(sizes) <= 1e-6).all()  # the largest directions come first: those that small ranks train


def test_texts_are_changelogs_without_names_and_pythons_own_where_there_are_none(tmp_path: Path) -> None:
    from texts import texts

    own = texts(3, 3000, tmp_path)
    assert len(set(own)) == 3
    assert all(len(text) >= 3000 and "statement" in "".join(own) for text in own)
    for package in ("bash", "vim"):
        (tmp_path / package).mkdir()
        with gzip.open(tmp_path / package / "changelog.Debian.gz", "wt") as file:
            file.write(f"{package} (1.0) unstable\n\n  * New.\n\n -- A Person <a@example.org>  Mon, 02 Jan 2023\n")
    assert sorted(texts(2, 10, tmp_path)) == [f"{name} (1.0) unstable\n\n  * New.\n\n" for name in ("bash", "vim")]
