"""From reports to rows, and from rows to one choice."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnn_l1.config.sweep_settings import BudgetConfig
from cnn_l1.sweep.selection import (
    BudgetError,
    Row,
    choose,
    excess,
    exported_file,
    make_row,
    score_of,
)


def row(strength, score, sparsity, standard_error=0.01, **more):
    return Row(
        strength, runs=1, failed=0, score=score, standard_error=standard_error,
        sparsity=sparsity, **more,
    )  # fmt: skip


ACCURACIES = [
    row(0.001, 0.90, 0.10, 0.02),
    row(0.002, 0.95, 0.50, 0.02),
    row(0.004, 0.94, 0.70, 0.04),
    row(0.008, 0.93, 0.80, 0.04),
    row(0.016, 0.92, 0.90, 0.04),
]
ERRORS = [dataclasses.replace(r, score=1.0 - r.score) for r in ACCURACIES]


@pytest.mark.parametrize(("rows", "larger"), [(ACCURACIES, True), (ERRORS, False)])
def test_best_is_the_largest_accuracy_or_the_smallest_error(rows, larger):
    assert choose(rows, "best", larger) is rows[1]


@pytest.mark.parametrize(("rows", "larger"), [(ACCURACIES, True), (ERRORS, False)])
def test_one_standard_error_is_the_bests_own(rows, larger):
    # The limit is 0.95 - 0.02: 0.93 is just within, though the mean is a rounded one, and
    # 0.92 is not, though within its own error, 0.04.
    assert choose(rows, "one_standard_error", larger) is rows[3]


def test_equal_scores_go_to_the_sparsest_and_then_to_the_strongest():
    rows = [row(0.1, 0.9, 0.5), row(0.2, 0.9, 0.7), row(0.4, 0.9, 0.7), row(0.8, 0.9, 0.6)]
    for rule in ("best", "one_standard_error"):
        assert choose(rows, rule, True) is rows[2]
        assert choose(rows[::-1], rule, True) is rows[2]
        assert choose(rows, rule, False) is rows[2]


def test_sparsest_need_not_be_the_strongest():
    rows = [row(0.1, 0.9, 0.8), row(0.2, 0.9, 0.7)]
    assert choose(rows, "one_standard_error", True) is rows[0]


@pytest.mark.parametrize(
    ("max_drop", "chosen"), [(0.0, 1), (1.0, 2), (1.5, 2), (2.0, 3), (3.0, 4), (100.0, 4)]
)
def test_max_drop_counts_points_against_the_dense_baseline(max_drop, chosen):
    dense = row(0.0, 0.95, 0.0)
    found = choose(ACCURACIES, "max_drop", True, max_drop=max_drop, dense=dense)
    assert found is ACCURACIES[chosen]


def test_max_drop_that_none_meets_says_what_is_nearest():
    dense = row(0.0, 0.99, 0.0)
    with pytest.raises(ValueError, match=r"0\.5 points .* 99\.00%\. Received: 95\.00% at best, at"):
        choose(ACCURACIES, "max_drop", True, max_drop=0.5, dense=dense)


def test_failed_rows_are_passed_over():
    failed = Row(0.032, runs=0, failed=3)
    assert choose([*ACCURACIES, failed], "one_standard_error", True) is ACCURACIES[3]
    with pytest.raises(ValueError, match=r"at least one run that ended well\. Received: none"):
        choose([failed], "best", True)


def test_rows_that_do_not_fit_are_passed_over_before_the_rule():
    rows = [dataclasses.replace(r, fits=r.l1_strength > 0.005) for r in ACCURACIES]
    budget = BudgetConfig(max_bytes=1000)
    # The best of those that fit sets the limit, 0.93 - 0.04.
    assert choose(rows, "best", True, budget=budget) is rows[3]
    assert choose(rows, "one_standard_error", True, budget=budget) is rows[4]


def figures(**given):
    names = (
        "accuracy", "accuracy_standard_error", "mean_squared_error",
        "mean_squared_error_standard_error", "bytes", "macs", "ram_bytes", "latency_median_ms",
    )  # fmt: skip
    return dict.fromkeys(names) | given


def report(sparsity=0.5, nonzero=10, **files):
    counts = {"sparsity": sparsity, "nonzero_parameters": nonzero}
    return {"counts": counts, "files": {n.replace("__", "/"): f for n, f in files.items()}}


def test_excess_is_the_worst_ratio_and_an_unknown_figure_is_beyond_all():
    budget = BudgetConfig(max_bytes=1000, max_ram_bytes=100)
    assert excess(figures(bytes=500, ram_bytes=80), budget) == 0.8
    assert excess(figures(bytes=1500, ram_bytes=80), budget) == 1.5
    assert excess(figures(bytes=1000, ram_bytes=100), budget) == 1.0
    assert excess(figures(bytes=500, ram_bytes=None), budget) == math.inf


def test_shrunk_file_counts_where_there_is_one():
    both = {"files": {"model.keras": 1, "shrunk/model.keras": 2}}
    assert exported_file(both, "model.keras") == ("shrunk/model.keras", 2)
    assert exported_file({"files": {"model.keras": 1}}, "model.keras") == ("model.keras", 1)


def test_score_is_accuracy_or_squared_error():
    assert score_of(figures(accuracy=0.5, accuracy_standard_error=0.1)) == (0.5, 0.1)
    # An accuracy of 0 is one.
    assert score_of(figures(accuracy=0.0, accuracy_standard_error=0.0)) == (0.0, 0.0)
    given = figures(mean_squared_error=2.0, mean_squared_error_standard_error=0.3)
    assert score_of(given) == (2.0, 0.3)


def scored(score, error, **more):
    return report(**{"model.keras": figures(accuracy=score, accuracy_standard_error=error, **more)})


def test_one_run_keeps_its_own_standard_error():
    made = make_row(0.1, [scored(0.8, 0.05, bytes=7)], 0, "model.keras")
    assert (made.score, made.standard_error, made.bytes) == (0.8, 0.05, 7)
    assert (made.runs, made.failed, made.fits) == (1, 0, None)


def test_standard_error_over_runs_is_theirs():
    reports = [scored(score, 0.5, bytes=7) for score in (0.6, 0.9, 0.9)]
    made = make_row(0.1, reports, 2, "model.keras")
    assert made.score == pytest.approx(0.8)
    # Squares 0.04 + 0.01 + 0.01 over n - 1 = 2, and over the three runs, are 0.1².
    assert made.standard_error == pytest.approx(0.1)
    assert (made.runs, made.failed) == (3, 2)


def test_row_fits_if_every_run_does_and_an_unknown_figure_leaves_no_mean():
    budget = BudgetConfig(max_bytes=10)
    fits = make_row(0.1, [scored(0.8, 0.1, bytes=n) for n in (9, 10)], 0, "model.keras", budget)
    assert fits.fits is True
    beyond = make_row(0.1, [scored(0.8, 0.1, bytes=n) for n in (5, 11)], 0, "model.keras", budget)
    assert beyond.fits is False
    assert beyond.bytes == 8
    reports = [scored(0.8, 0.1, bytes=1, macs=n) for n in (5, None)]
    assert make_row(0.1, reports, 0, "model.keras").macs is None


def test_row_of_failures_has_no_figures():
    made = make_row(0.1, [], 3, "model.keras", BudgetConfig(max_bytes=10))
    assert made == Row(0.1, runs=0, failed=3)


def test_impossible_budget_names_the_nearest():
    budget = BudgetConfig(max_bytes=1000, max_macs=100)
    # The worst of a row's ratios counts: 2, 4 and unknown.
    sizes = {0.1: (2000, 100), 0.2: (1500, 400), 0.4: (1800, None)}
    rows = [
        make_row(s, [scored(0.9, 0.1, bytes=n, macs=m)], 0, "model.keras", budget)
        for s, (n, m) in sizes.items()
    ]
    message = r"nearest is strength 0\.1 with bytes 2,000 of 1,000, macs 100 of 100\."
    with pytest.raises(BudgetError, match=message):
        choose(rows, "best", True, budget=budget)
    with pytest.raises(BudgetError, match=r"strength 0\.4 with bytes 1,800 .* macs unknown of 100"):
        choose(rows[2:], "best", True, budget=budget)


def test_impossible_budget_of_a_row_whose_mean_would_fit_tells_the_worst_run():
    budget = BudgetConfig(max_bytes=10)
    made = make_row(0.1, [scored(0.8, 0.1, bytes=n) for n in (5, 11)], 0, "model.keras", budget)
    with pytest.raises(BudgetError, match="bytes 11 of 10"):
        choose([made], "best", True, budget=budget)


# Few values each, so that ties are common.
SCORES = st.sampled_from([None, 0.0, 0.1, 0.5, 0.52, 0.6, 0.9, 1.0])
ROWS = st.lists(
    st.builds(
        lambda score, sparsity, error, fits: (score, sparsity, error, fits),
        SCORES,
        st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
        st.sampled_from([0.0, 0.02, 0.1]),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@given(ROWS, st.sampled_from(["best", "one_standard_error", "max_drop"]), st.booleans(), SCORES)
def test_choice_satisfies_the_rule_and_no_sparser_row_does(drawn, rule, with_budget, dense_score):
    rows = [
        row(1.0 + i, score, sparsity, error, fits=fits if with_budget else None, bytes=20.0)
        for i, (score, sparsity, error, fits) in enumerate(drawn)
    ]
    larger = rule == "max_drop" or len(rows) % 2 == 0
    dense = row(0.0, 0.0 if dense_score is None else dense_score, 0.0)
    budget = BudgetConfig(max_bytes=10) if with_budget else None
    usable = [r for r in rows if r.score is not None and r.fits is not False]
    sign = 1 if larger else -1
    if usable:
        top = max(sign * r.score for r in usable)
        # Of equal best ones, the sparsest's own error is the one.
        first = max((r for r in usable if sign * r.score == top), key=lambda r: r.sparsity)
        candidates = [r for r in usable if sign * r.score == top and r.sparsity == first.sparsity]
        first = candidates[-1]
        limit = {
            "best": top,
            "one_standard_error": top - first.standard_error,
            "max_drop": dense.score - 0.005,
        }[rule]
        good = [r for r in usable if sign * r.score >= limit - 1e-9]
    if not usable or not good:
        with pytest.raises(ValueError):  # noqa: PT011 (its texts are tested above)
            choose(rows, rule, larger, dense=dense, budget=budget)
        return
    chosen = choose(rows, rule, larger, dense=dense, budget=budget)
    assert chosen in good
    assert chosen.sparsity == max(r.sparsity for r in good)
