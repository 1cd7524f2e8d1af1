"""Views in training: whose turn it is, what is stored, and mixing before the frozen layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from bequest import sources
from bequest.core.errors import MethodError
from bequest.core.observe import Silent
from bequest.core.registry import get_method
from bequest.data.views import Views, choose_views, mix_images, parse_recipe
from bequest.engine.context import Context
from bequest.engine.features import encoded
from bequest.engine.run import Outcome, run
from bequest.engine.runtime import choose_runtime
from bequest.engine.store import Store
from bequest.engine.views import view


@pytest.fixture
def context_with(tmp_path: Path) -> Callable[..., Context]:
    def make(number: int | None, recipe: str, folder: str = "store", **changes: Any) -> Context:
        source = sources.get("timm:test_vit", pretrained=False, image_size=160)
        views = Views(number, parse_recipe(recipe))
        runtime = choose_runtime("float32")
        return Context(
            source, tiny.photo_task(32, 40), Store(tmp_path / folder), runtime, Silent(), views=views, **changes
        )

    return make


def trial(context: Context, epochs: int = 4) -> Outcome:
    settings = {"from_depth": "0.67", "epochs": epochs, "batch_size": 8, "patience": 0, "head_init": "random"}
    return run(context, get_method("freeze").build(settings), context.task.draw(0, train_size=18, test_size=9), seed=0)


def losses(outcome: Outcome) -> list[float | None]:
    return [epoch.train_loss for epoch in outcome.history]


def test_views_from_the_cut_train_as_views_of_the_whole_network(context_with: Callable[..., Context]) -> None:
    recipe = "strong,flip=0.5"
    ours, plain = trial(context_with(3, recipe)), trial(context_with(3, recipe, "plain", cut=False))
    assert ours.frozen_shares and not plain.frozen_shares
    for name, tensor in plain.trained.items():
        torch.testing.assert_close(ours.trained[name], tensor, rtol=1e-3, atol=5e-5, msg=name)
    assert losses(ours) != losses(trial(context_with(1, recipe, "one"))), "views are seen"


def test_each_view_is_computed_once_and_shared_between_seeds(context_with: Callable[..., Context]) -> None:
    context = context_with(3, "light")
    first = losses(trial(context))
    computed = context.passes.computed
    assert losses(trial(context)) == first and context.passes.computed == computed
    num_train, num_held = 14, 4
    assert computed == 3 * num_train + num_held + 9, "three views of the train part, the plain one of all else"


def test_fresh_views_in_every_epoch_are_not_stored(context_with: Callable[..., Context], tmp_path: Path) -> None:
    context = context_with(None, "light")
    outcome = trial(context)
    assert not outcome.frozen_shares and context.passes.computed == 0
    assert losses(outcome) == losses(trial(context_with(None, "light", "other")))


def test_a_mixed_view_is_the_mix_of_two_views(context_with: Callable[..., Context]) -> None:
    context = context_with(2, "none,mixup=1")
    indices = np.arange(12)
    mixed = view(context, indices, context.labels(indices), 1)
    plain = encoded(context, indices, 1)
    for i, content in enumerate(context.hashes(indices)):
        mix = context.views.recipe.partner(content.tobytes(), 1, context.hashes(indices))
        assert mix is not None
        assert np.array_equal(mixed.items[i], mix_images(plain[i], plain[mix.partner], mix))
        own, other = int(context.labels(indices)[i]), int(context.labels(indices)[mix.partner])
        expected = mix.share * np.eye(3)[own] + (1 - mix.share) * np.eye(3)[other]
        np.testing.assert_allclose(mixed.labels[i].numpy(), expected, atol=1e-6)
    hashes = {row.tobytes() for row in mixed.hashes}
    assert len(hashes) == 12 and not hashes & {row.tobytes() for row in context.hashes(indices)}


def test_what_users_may_ask_for() -> None:
    assert choose_views("3", "strong", "image") == Views(3, parse_recipe("strong"))
    assert choose_views("unlimited", None, "image") == Views(None, parse_recipe("light"))
    assert choose_views(1, "strong", "image") == choose_views(None, None, "text") == Views()
    assert choose_views(5, "none", "image") == Views(), "views that are all the same are one"
    for wrong in (0, -2, "many", 1.5):
        with pytest.raises(MethodError, match=r"--views is .*; expected 1 or more, or 'unlimited'"):
            choose_views(wrong, None, "image")
    with pytest.raises(MethodError, match="Did you mean 'strong'"):
        choose_views(2, "storng", "image")
    with pytest.raises(MethodError, match="are for images; these samples are of kind 'text'"):
        choose_views(2, None, "text")
