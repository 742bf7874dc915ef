"""What a report says of the runs that agree, and of the number of clusters."""

import numpy as np
import pytest
from pages import read_page
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from toy import IMAGES, make

from skdeepcluster import ConsensusClusterer, SelectiveClusterer
from skdeepcluster.model_selection import NClustersSearch, select_n_clusters
from skdeepcluster.report import write_report, write_report_of
from skdeepcluster.report._charts import evidence_curve

ROWS = IMAGES.reshape(len(IMAGES), -1)
X = ROWS[:12].reshape(12, 8, 8)
LABELS = np.repeat([0, 1, 2, 3], 3)
SEARCH = {
    "n_clusters": 4,
    "confidence": "high",
    "reason": "Four <is> best.",
    "candidates": [4, 2],
    "results": {
        "n_clusters": [2, 3, 4],
        "silhouette": [0.5, -0.1, 0.6],
        "stability": [0.9, 0.5, 1.0],
        "generalization": [1.0, 0.8, 0.9],
        "smallest": [0.5, 0.3, 0.25],
    },
}


def report(tmp_path, **options):
    path = write_report(tmp_path / "r.html", X, LABELS, n_examples=2, **options)
    return read_page(path.read_text())


def said(page):
    return [item.text for item in page.one("section", id="findings").all("li")]


def test_why_there_are_as_many_clusters(tmp_path):
    page = report(tmp_path, search=SEARCH)
    section = page.one("section", id="how-many")
    why = "Number of clusters: 4, chosen with high confidence. Four <is> best."
    assert section.all("p")[0].text == why
    assert page.one("nav").all("a")[0]["href"] == "#how-many"
    names = [caption.text for caption in section.all("figcaption")]
    assert names == [
        "Silhouette: how compact, how separate? 0.60 for 4 clusters",
        "Stability: do two halves agree? 1.00 for 4 clusters",
        "Generalization: do neighbours predict? 0.90 for 4 clusters",
        "Share of the smallest cluster 0.25 for 4 clusters",
    ]
    assert not any("number of clusters" in text for text in said(page))
    unsure = report(tmp_path, search={**SEARCH, "confidence": "low"})
    assert said(unsure) == [
        "The number of clusters, 4, was chosen with low confidence: read "
        '"How many clusters".'
    ]
    alone = {name: values[2:] for name, values in SEARCH["results"].items()}
    one = report(tmp_path, search={**SEARCH, "results": alone})
    assert not one.one("section", id="how-many").all("svg")
    assert not report(tmp_path).all("section", id="how-many")


def test_a_curve_of_the_evidence():
    given = ([2, 3, 6], [0.5, -0.5, 1.0], 3, [3, 6])
    curve = evidence_curve("name", *given)
    assert (curve.low, curve.high, curve.first, curve.last) == ("-0.5", "1", "2", "6")
    assert curve.end == "-0.50 for 3 clusters" and curve.axis == "number of clusters"
    assert curve.lines == [
        ("chosen", "chosen", "M75.0 0V90"),
        ("", "", "M0.0 30.0h0L75.0 90.0L300.0 0.0"),
        ("candidates", "dots", "M75.0 90.0h0M300.0 0.0h0"),
    ]
    wide = evidence_curve("name", *given, low=-2, high=0)
    assert (wide.low, wide.high) == ("-2", "1")


def test_which_clusters_are_an_accident(tmp_path):
    agreement = np.repeat([1, 0.5], 6)
    agreement[0] = 0.8
    page = report(
        tmp_path, agreement=agreement, cluster_agreement=[0.2, 0.75, 0.6, 0.5]
    )
    assert said(page) == [
        "1 cluster is an accident of the seed, found in few of the runs (agreement "
        "below 0.5): 0.",
        "2 clusters are found again only roughly by other runs (agreement below "
        "0.75): 2, 3.",
    ]
    first = page.one("section", id="c0")
    assert "3 images, 25.0%, agreement of the runs 0.20" in first.text
    assert {image["alt"][-31:] for image in first.all("img")} <= {
        f"row {row}, cluster 0, agreement {value}"[-31:]
        for row, value in ((0, "0.80"), (1, "1.00"), (2, "1.00"))
    }
    facts = {f.one("dt").text: f.one("dd").text for f in page.one("dl").all("div")}
    assert facts["In one cluster in all runs"] == f"{5 / 12:.1%}"


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"agreement": [1] * 11}, ValueError, "agreement has 11 entries, and X 12"),
        ({"agreement": [2] * 12}, ValueError, "agreement goes from 2 to 2; shares"),
        ({"cluster_agreement": [1, 1]}, ValueError, r"shape \(2,\); one number for"),
        ({"cluster_agreement": [1, 1, 0, np.nan]}, ValueError, "holds NaN"),
        ({"cluster_agreement": [1, 1, 0, -1]}, ValueError, "from -1 to 1; shares"),
        ({"search": {"n_clusters": 4}}, TypeError, "no confidence, reason, cand"),
        ({"search": KMeans(4)}, TypeError, "type KMeans and has no n_clusters"),
        ({"search": NClustersSearch(KMeans())}, NotFittedError, "is not fitted yet"),
        ({"search": {**SEARCH, "n_clusters": 7}}, ValueError, "7, which is none of"),
        (
            {"search": {**SEARCH, "results": {"n_clusters": [4]}}},
            ValueError,
            "different lengths: .*'n_clusters': 1, 'silhouette': 0",
        ),
    ],
)
def test_bad_evidence(tmp_path, options, error, match):
    with pytest.raises(error, match=match):
        report(tmp_path, **options)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("n_clusters", [3, 6])
def test_a_search_of_other_labels_is_told(tmp_path, n_clusters):
    labels = np.arange(12) % n_clusters
    with pytest.warns(UserWarning, match=f"of {n_clusters} clusters, and search chose"):
        write_report(tmp_path / "r.html", X, labels, search=SEARCH)


def page_of(tmp_path, model, images=IMAGES):
    path = write_report_of(tmp_path / "r.html", model, ROWS, images=images)
    return read_page(path.read_text())


def test_a_consensus_tells_what_its_runs_agree_on(tmp_path):
    kmeans = KMeans(6, n_init=1, init="random")
    model = ConsensusClusterer(kmeans, n_runs=3, random_state=0)
    whole = make_pipeline(FunctionTransformer(), model).fit(ROWS)
    page, fitted = page_of(tmp_path, whole), whole[-1]
    settled = np.mean(fitted.agreement_ == 1)
    assert 0 < settled < 1  # there is something to tell
    facts = {f.one("dt").text: f.one("dd").text for f in page.one("dl").all("div")}
    assert facts["In one cluster in all runs"] == f"{settled:.1%}"
    for k, value in enumerate(fitted.cluster_agreement_):
        text = page.one("section", id=f"c{k}").text
        assert f"agreement of the runs {value:.2f}" in text
    rejecting = SelectiveClusterer(model, threshold=0.9).fit(ROWS)
    page = page_of(tmp_path, rejecting)
    assert "agreement of the runs" in page.one("section", id="clusters").text


def test_a_search_tells_why_and_how_it_was_trained(tmp_path):
    search = select_n_clusters(make(), IMAGES, [2, 3, 4], n_splits=1, random_state=0)
    places = np.zeros((len(IMAGES), 2))  # t-SNE would take seconds
    path = write_report_of(tmp_path / "r.html", search, IMAGES, positions=places)
    page = read_page(path.read_text())
    assert search.reason_ in page.one("section", id="how-many").all("p")[0].text
    loss = search.best_estimator_.history_[-1]["loss"]
    assert f"loss {loss:,.4g}" in page.one("section", id="training").text


def test_of_a_search_in_each_run_the_reason_is_that_of_one(tmp_path):
    search = NClustersSearch(KMeans(n_init=1), [2, 3], n_splits=1)
    model = ConsensusClusterer(search, n_runs=2, random_state=0).fit(ROWS)
    assert not page_of(tmp_path, model).all("section", id="how-many")
