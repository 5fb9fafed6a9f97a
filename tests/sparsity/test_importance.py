"""Importance: what is smallest, and which channels go first. Whole runs: test_targets.py."""

import numpy as np

from cnn_l1.sparsity.importance import Candidate, choose, lamp_order, price, shares, smallest


def test_smallest_takes_what_is_asked_for_and_of_ties_the_first():
    values = np.array([0.5, -0.1, 0.0, 0.1, 0.3, -0.1, 0.1], "float32")
    assert sorted(smallest(values, 2)) == [1, 3]
    assert sorted(smallest(values, 4)) == [1, 3, 5, 6]
    assert sorted(smallest(values, 5)) == [1, 3, 4, 5, 6]
    assert values[0] == np.float32(0.5)  # and leaves the values alone


def test_lamp_parts_are_squares_over_those_that_are_no_smaller():
    squares = np.array([4.0, 0.0, 1.0, 3.0])
    gone = squares == 0
    order, parts = lamp_order(shares(squares, gone), 1, gone)
    assert order.tolist() == [0, 3, 2]
    np.testing.assert_allclose(parts, [1.0, 3.0 / 7.0, 1.0 / 8.0])


def test_a_layer_with_few_left_gives_none_for_cheap():
    none = np.zeros(2, bool)
    _, many = lamp_order(shares(np.ones(10), np.zeros(10, bool)), 1, np.zeros(10, bool))
    _, few = lamp_order(shares(np.ones(2), none), 1, none)
    assert few.min() > many.min()


def test_the_price_is_the_root_of_the_multiply_adds():
    assert price(100) == 10.0
    assert price(0) == 1.0


def plan(macs, exactly=True, tolerance=0.03, costs=((10, 10, 10), (1, 1, 1))):
    """What `choose` leaves of two groups, each channel at its own cost."""
    gone = [np.zeros(3, bool), np.zeros(3, bool)]
    order = [Candidate(0.1, 0, 0), Candidate(0.2, 1, 0), Candidate(0.3, 0, 1), Candidate(0.4, 1, 1)]

    def left_without(trial):
        return sum(
            cost
            for group, channels in zip(costs, trial, strict=True)
            for cost, is_gone in zip(group, channels, strict=True)
            if not is_gone
        )

    chosen = choose(order, gone, left_without, macs, tolerance, exactly)
    assert not any(channels.any() for channels in gone)  # left as they were
    return [channels.tolist() for channels in chosen], left_without(chosen)


def test_channels_go_from_the_least_important_on_until_the_number_is_met():
    assert plan(23) == ([[True, False, False], [False, False, False]], 23)
    assert plan(22) == ([[True, False, False], [True, False, False]], 22)
    assert plan(33)[1] == 33  # nothing to do


def test_a_channel_that_costs_too_much_gives_way_to_cheaper_ones_after_it():
    # The third candidate would leave 12; the fourth alone leaves 21.
    assert plan(21) == ([[True, False, False], [True, True, False]], 21)


def test_on_the_way_the_choice_stops_above_the_number():
    chosen, left = plan(21, exactly=False)
    assert (chosen, left) == ([[True, False, False], [True, False, False]], 22)


def test_where_nothing_is_near_enough_the_nearest_below_is_taken():
    chosen, left = plan(20)
    assert left == 12
    assert chosen == [[True, True, False], [True, False, False]]
