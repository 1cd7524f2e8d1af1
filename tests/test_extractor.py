"""`FeatureExtractor` keeps scikit-learn's rules, and gives what the network gives."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import bequest
from bequest.core.errors import DataError, SourceError
from bequest.extractor import FeatureExtractor
from bequest.sources import from_module


class Anything(nn.Module):
    """Takes arrays of any width up to 24, as scikit-learn's checks give them; what is missing counts as 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(24, 8)
        self.second = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(nn.functional.pad(x.float(), (0, 24 - x.shape[1])))))

    def __reduce__(self) -> Any:
        # joblib's hash of a tensor is another one for an equal tensor; that of numpy's arrays goes by their content.
        return remade, (type(self), {name: t.numpy() for name, t in self.state_dict().items()}, self.training)


def remade(cls: type[nn.Module], state: dict[str, np.ndarray], training: bool) -> nn.Module:
    module = cls().train(training)
    module.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in state.items()})
    return module


def rows(samples: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(samples) % 3
    return rng.normal(size=(samples, 6)) + labels[:, None], labels


def expected_failures(estimator: Any) -> dict[str, str]:
    """Checks that cannot hold, by name, and why."""
    if isinstance(estimator.source, nn.Module):
        return {}
    return {
        "check_estimators_overwrite_params": "a Source keeps the network that it has loaded and holds tensors, so its "
        "hash in joblib changes; test_a_source_is_not_changed looks at the weights"
    }


@parametrize_with_checks(
    [
        FeatureExtractor(Anything(), source_head=""),
        FeatureExtractor(from_module(Anything(), head="", example=torch.zeros(2, 4)), layers=["first", "embedding"]),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learns_own_checks(estimator: Any, check: Any, cache: Path) -> None:
    check(estimator)


def test_a_source_is_not_changed(cache: Path) -> None:
    source = from_module(Anything(), head="", example=torch.zeros(2, 4))
    before = {name: t.clone() for name, t in source.body.state_dict().items()}
    extractor = FeatureExtractor(source, layers="first").fit(rows()[0])
    extractor.transform(rows()[0])
    assert extractor.source is source
    assert all(torch.equal(t, before[name]) for name, t in source.body.state_dict().items())


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_same_as_the_network(cache: Path, precision: Any, tolerance: float) -> None:
    x, _ = rows()
    module = Anything()  # which makes float32 of what it is given
    extractor = FeatureExtractor(module, layers="first,embedding", source_head="", precision=precision)
    features = extractor.fit_transform(x)
    with torch.inference_mode():
        inputs = torch.from_numpy(x).float()
        first = module.first(nn.functional.pad(inputs, (0, 18)))
        expected = torch.cat([first, module(inputs)], 1).numpy()
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=tolerance, atol=tolerance)


def test_names_tell_layer_and_place(cache: Path) -> None:
    extractor = FeatureExtractor(Anything(), layers=["embedding", "first"], source_head="").fit(rows()[0])
    names = list(extractor.get_feature_names_out())
    assert names == [*(f"embedding:{i}" for i in range(5)), *(f"first:{i}" for i in range(8))]
    frame = extractor.set_output(transform="pandas").transform(rows()[0])
    assert list(frame.columns) == names


@pytest.mark.parametrize("jobs", [None, 2])
def test_in_a_pipeline_and_a_grid_search(cache: Path, jobs: int | None) -> None:
    x, y = rows()
    pipeline = make_pipeline(FeatureExtractor(Anything(), source_head=""), LogisticRegression())
    search = GridSearchCV(
        pipeline,
        {"featureextractor__layers": ["last", "first"], "logisticregression__C": [0.1, 1]},
        cv=3,
        n_jobs=jobs,
        error_score="raise",
    ).fit(x, y)
    assert search.best_score_ > 0.8
    layers = search.best_params_["featureextractor__layers"]
    alone = FeatureExtractor(Anything(), layers=layers, source_head="").fit_transform(x)
    again = LogisticRegression(C=search.best_params_["logisticregression__C"]).fit(alone, y)
    np.testing.assert_array_equal(search.predict(x), again.predict(alone))


def test_each_sample_goes_through_the_network_once(cache: Path) -> None:
    seen: list[int] = []

    class Counting(Anything):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return super().forward(x)

    x, _ = rows()
    extractor = FeatureExtractor(Counting(), source_head="").fit(x)
    seen.clear()
    twice = extractor.transform(np.concatenate([x, x]))
    assert sum(seen) == len(x)
    np.testing.assert_array_equal(twice[: len(x)], twice[len(x) :])
    clone(extractor).fit_transform(x[::-1])
    assert sum(seen) == len(x) + 3  # the three samples that are tried to find how wide the embedding is


def test_texts(cache: Path) -> None:
    texts = [tiny.text_task(12).samples[i] for i in range(12)]
    source = tiny.text_source()
    features = FeatureExtractor(source, layers="all").fit_transform(texts)
    assert features.shape == (12, 64)
    with torch.inference_mode():
        batch = source.preprocess.collate([source.preprocess.encode(t) for t in texts])
        np.testing.assert_allclose(features[:, -16:], source.body(*batch), rtol=1e-4, atol=1e-5)
    short = FeatureExtractor(source, layers="layer.1", pool_to=32).fit_transform(np.array(texts, dtype=object))
    assert short.shape == (12, 32)


def test_images_and_their_paths(cache: Path, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

    def pixels(image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert("RGB").resize((8, 8)), np.float32).transpose(2, 0, 1) / 255

    source = from_module(network, preprocess=pixels, modality="image", example=torch.zeros(2, 3, 8, 8))
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)) for _ in range(4)]
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, picture in zip(paths, pictures, strict=True):
        picture.save(path)
    extractor = FeatureExtractor(source).fit(pictures)
    features = extractor.transform(pictures)
    assert features.shape == (4, 4)
    for same in (paths, [str(path) for path in paths], np.stack([np.asarray(p) for p in pictures])):
        np.testing.assert_allclose(extractor.transform(same), features, rtol=1e-5)


def test_arrays_of_more_dimensions(cache: Path) -> None:
    x = np.stack([tiny.image_task(9).samples[i] for i in range(9)])
    extractor = FeatureExtractor(tiny.image_source(), layers="all").fit(x)
    assert extractor.transform(x).shape == (9, 40)


def test_what_does_not_fit_is_refused(cache: Path) -> None:
    with pytest.raises(DataError, match="takes samples of kind text, but X holds samples of kind array"):
        FeatureExtractor(tiny.text_source()).fit(rows()[0])
    with pytest.raises(SourceError, match="no layer 'third'"):
        FeatureExtractor(Anything(), layers="third", source_head="").fit(rows()[0])
    with pytest.raises(SourceError, match="names first more than once; expected each once"):
        FeatureExtractor(Anything(), layers="first,first", source_head="").fit(rows()[0])
    with pytest.raises(SourceError, match="expected names of layers, last or all"):
        FeatureExtractor(Anything(), layers=[], source_head="").fit(rows()[0])
    with pytest.raises(DataError, match="pool_to is -1; expected a whole number, 0 or more"):
        FeatureExtractor(Anything(), pool_to=-1, source_head="").fit(rows()[0])
    with pytest.raises(ValueError, match="X has 5 features, but FeatureExtractor is expecting 6"):
        FeatureExtractor(Anything(), source_head="").fit(rows()[0]).transform(rows()[0][:, :5])


def test_pickled_it_gives_the_same(cache: Path) -> None:
    x, _ = rows()
    extractor = FeatureExtractor(Anything(), source_head="").fit(x)
    again = pickle.loads(pickle.dumps(extractor))
    np.testing.assert_array_equal(again.transform(x), extractor.transform(x))


def test_torch_comes_with_the_first_use_alone() -> None:
    code = "import sys, bequest; before = 'torch' in sys.modules; bequest.FeatureExtractor; print(before)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
    assert bequest.FeatureExtractor is FeatureExtractor
