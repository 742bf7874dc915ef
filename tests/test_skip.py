"""With on_error="skip", rows stay aligned with the files, also those left out."""

import numpy as np
import pytest
from estimators import ESTIMATORS, NAMES, each_estimator, make_stripes
from PIL import Image
from sklearn.base import clone

from skdeepcluster.metrics import (
    balance_scorer,
    calibration_scorer,
    calinski_harabasz_scorer,
    davies_bouldin_scorer,
    expected_calibration_error,
    silhouette_scorer,
)
from skdeepcluster.plots import ClusterSheetDisplay, ReliabilityDisplay

BAD = [0, 7, 33, 59]
GOOD = np.setdiff1d(np.arange(60), BAD)
SCORERS = [
    balance_scorer,
    calinski_harabasz_scorer,
    davies_bouldin_scorer,
    silhouette_scorer,
]


@pytest.fixture
def files(tmp_path):
    """The stripes as files, four of which cannot be read."""
    paths = [str(tmp_path / f"{i:02}.png") for i in range(60)]
    for i, image in enumerate(make_stripes()[0]):
        Image.fromarray(image).save(paths[i])
    (tmp_path / "00.png").unlink()
    (tmp_path / "07.png").write_bytes((tmp_path / "07.png").read_bytes()[:80])
    (tmp_path / "33.png").write_text("no image")
    (tmp_path / "59.png").unlink()
    (tmp_path / "59.png").mkdir()
    return paths


@pytest.mark.filterwarnings("ignore:4 of 60 image files")
@each_estimator
def test_a_fit_is_that_of_the_files_that_can_be_read(estimator, files):
    with pytest.raises(ValueError, match="4 of 60 image files cannot be read"):
        clone(estimator).fit(files)
    model = clone(estimator).set_params(on_error="skip").fit(files)
    expected = clone(estimator).fit([files[i] for i in GOOD])
    assert [row for row, _, _ in model.skipped_] == BAD
    assert [path for _, path, _ in model.skipped_] == [files[i] for i in BAD]
    assert [reason[:17] for _, _, reason in model.skipped_] == [
        "does not exist",
        "is truncated or d",
        "is not an image t",
        "is not an image b",
    ]
    assert expected.skipped_ == []
    # what has one entry a sample has one for each of X
    for name in model._per_sample:
        values = getattr(model, name)
        assert len(values) == 60
        assert values.dtype == getattr(expected, name).dtype
        np.testing.assert_array_equal(values[GOOD], getattr(expected, name))
        assert np.isin(values[BAD], (-1, 0) if values.dtype == bool else -1).all()
    np.testing.assert_array_equal(model.cluster_sizes_, expected.cluster_sizes_)
    assert model.cluster_sizes_.sum() == 56
    # and so do predictions
    np.testing.assert_array_equal(model.predict(files), model.labels_)
    assert model.predict(files).dtype == np.int64
    for method in ("transform", "predict_proba", "score_samples"):
        if not hasattr(model, method):
            continue
        values = getattr(model, method)(files)
        assert values.dtype == np.float32
        assert np.isnan(values[BAD]).all()
        again = getattr(expected, method)([files[i] for i in GOOD])
        np.testing.assert_array_equal(values[GOOD], again)
    assert model.score(files) == expected.score([files[i] for i in GOOD])


@pytest.mark.filterwarnings("ignore:(4 of 60|2 of 2) image files")
@each_estimator
def test_nothing_that_can_be_read_at_predict(estimator, files):
    model = clone(estimator).set_params(on_error="skip").fit(files)
    nothing = ["/not/there.png", files[0]]
    assert model.predict(nothing).tolist() == [-1, -1]
    assert np.isnan(model.predict_proba(nothing)).all()
    assert model.predict_proba(nothing).shape == (2, model.n_clusters)
    assert np.isnan(model.transform(nothing)).all()
    again = clone(estimator).set_params(on_error="skip")
    match = "2 of 2 image files cannot be read(?s:.*)\nPass images that can be read\\.$"
    with pytest.raises(ValueError, match=match):
        again.fit(nothing)
    assert not hasattr(again, "skipped_")


def fit(name, **params):
    return clone(ESTIMATORS[NAMES.index(name)]).set_params(**params)


def test_a_warning_says_how_many(files):
    match = (
        r"4 of 60 image files cannot be read:\n  '.*00\.png' does not exist(.|\n)*-1"
    )
    with pytest.warns(UserWarning, match=match) as caught:
        model = fit("DigPro", on_error="skip").fit(files)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="1 of 2 image files cannot be read"):
        labels = model.predict(files[:2])
    assert labels.tolist() == [-1, model.labels_[1]]


def test_files_of_other_bits_than_those_of_the_fit(tmp_path):
    """Of 32-bit files and others, those are left out that the fit had not."""
    files = [str(tmp_path / f"{i:02}.tiff") for i in range(60)]
    for file, image in zip(files, make_stripes()[0], strict=True):
        Image.fromarray(image).convert("F").save(file)
    grey = Image.fromarray(make_stripes()[0][0]).convert("L")
    model = fit("DigPro").fit(files)
    match = r"1 of 3 (?s:.*)X\[2\] holds no 32-bit values, as those of the training"
    with pytest.raises(ValueError, match=match):
        model.predict([*files[:2], grey])
    with pytest.warns(UserWarning, match=match):
        labels = model.set_params(on_error="skip").predict([*files[:2], grey])
    assert labels.tolist() == [*model.labels_[:2], -1]


@pytest.mark.filterwarnings("ignore:.* image files cannot be read")
def test_what_remains_has_to_be_enough(files):
    with pytest.raises(ValueError, match="n_samples=2 should be >= n_clusters=3"):
        fit("DigPro", on_error="skip").fit([files[i] for i in (0, 1, 2, 7)])
    with pytest.raises(ValueError, match=r"Found 1 sample\(s\)"):
        fit("DigPro", on_error="skip").fit(files[:2])


@pytest.mark.filterwarnings("ignore:.* image files cannot be read")
@pytest.mark.parametrize("scorer", SCORERS)
def test_scorers_score_what_can_be_read(files, scorer):
    model = fit("SCL", on_error="skip").fit(files)
    assert scorer(model, files) == scorer(model, [files[i] for i in GOOD])


@pytest.mark.filterwarnings("ignore:4 of 60 image files")
def test_calibration_of_what_can_be_read(files):
    pytest.importorskip("matplotlib")
    model = fit("SCL", on_error="skip").fit(files)
    names = ["odd" if i % 2 else "even" for i in range(60)]
    read = [names[i] for i in GOOD], model.predict_proba(files)[GOOD]
    error = expected_calibration_error(*read)
    assert calibration_scorer(model, files, names) == -error
    display = ReliabilityDisplay.from_estimator(model, files, names)
    assert display.ece == error and display.sizes.sum() == len(GOOD)
    with pytest.raises(ValueError, match="inconsistent.*59, 60"):
        calibration_scorer(model, files, names[:59])


@pytest.mark.filterwarnings("ignore:.* image files cannot be read")
def test_images_without_a_file_are_skipped_too(files):
    images = [Image.open(files[i]) for i in GOOD]
    images[3].close()
    model = fit("DigPro", on_error="skip").fit(images)
    assert [entry[:2] for entry in model.skipped_] == [(3, None)]
    assert np.flatnonzero(model.labels_ < 0).tolist() == [3]


@pytest.mark.filterwarnings("ignore:.* image files cannot be read")
def test_facets_and_what_is_generated(files):
    model = fit("MFCVAE", on_error="skip").fit(files)
    np.testing.assert_array_equal(model.predict_facets(files), model.facet_labels_)
    assert (model.facet_labels_[BAD] == -1).all()
    for proba in model.predict_proba_facets(files):
        assert np.isnan(proba[BAD]).all()
        assert np.isfinite(proba[GOOD]).all()
    view = model.facet(1)
    np.testing.assert_array_equal(view.predict(files), view.labels_)
    assert np.isnan(view.transform(files)[BAD]).all()
    # a generated image stands for each row, so that none may be missing
    for generate in (model.reconstruct, model.traverse):
        with pytest.raises(ValueError, match="4 of 60 image files cannot be read"):
            generate(files)


@pytest.mark.filterwarnings("ignore:.* image files cannot be read")
def test_sheets_show_what_can_be_read(files):
    model = fit("DigPro", on_error="skip").fit(files)
    for order in ("typical", "uncertain"):
        display = ClusterSheetDisplay.from_estimator(
            model, files, order=order, n_images=60
        )
        shown = np.concatenate(display.indices)
        assert sorted(shown) == GOOD.tolist()


def test_on_error_is_checked(files):
    with pytest.raises(ValueError, match="'on_error' parameter of DigPro must be"):
        fit("DigPro", on_error="ignore").fit(files)
