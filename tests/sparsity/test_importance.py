"""Importance: what is smallest, and which channels go first."""

import numpy as np

from cnn_l1.sparsity.importance import smallest


def test_smallest_takes_what_is_asked_for_and_of_ties_the_first():
    values = np.array([0.5, -0.1, 0.0, 0.1, 0.3, -0.1, 0.1], "float32")
    assert sorted(smallest(values, 2)) == [1, 3]
    assert sorted(smallest(values, 4)) == [1, 3, 5, 6]
    assert sorted(smallest(values, 5)) == [1, 3, 4, 5, 6]
    assert values[0] == np.float32(0.5)  # and leaves the values alone
