"""The controller: path, steering, rollback and state, on numbers alone."""

import math

import pytest

from cnn_l1.sparsity.controller import (
    FARTHEST,
    LARGEST_MOVE,
    MARGIN,
    PATH_ENDS,
    StrengthController,
)


def begun(target=0.8, level=0.1, scale=1.0, **settings):
    controller = StrengthController(target, **settings)
    controller.begin(level, scale)
    return controller


def run(controller, answer, checks=200, level=0.0):
    """Steer a network whose level is `answer(scale)` after each check; the last level."""
    controller.begin(level, 1.0)
    for check in range(1, checks + 1):
        scale = controller.steer(level, check / checks, 1.0 / checks)
        level = answer(scale)
    return level


def test_the_path_goes_from_the_start_to_just_below_the_target_before_the_deadline():
    controller = begun(target=0.8, level=0.2)
    aim = 1.0 - 0.2 * (1.0 + MARGIN)
    assert controller.path(0.0) == pytest.approx(0.2)
    assert controller.path(PATH_ENDS) == controller.path(1.0) == pytest.approx(aim)
    levels = [controller.path(step / 100) for step in range(86)]
    assert levels == sorted(levels)
    half = aim + (0.2 - aim) * (1.0 - 0.5 / PATH_ENDS) ** 3
    assert controller.path(0.5) == pytest.approx(half)


def test_a_scale_of_zero_begins_at_one_and_others_stay():
    controller = StrengthController(0.5)
    assert controller.begin(0.0, 0.0) == 1.0
    assert controller.begin(0.0, math.nan) == 1.0
    assert controller.begin(0.0, 0.3) == 0.3
    assert controller.scale == pytest.approx(0.3)


@pytest.mark.parametrize("center", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("target", [0.3, 0.8, 0.95])
def test_it_reaches_its_setpoint_whatever_strength_the_network_needs(center, target):
    # A sigmoid in the logarithm of the strength, as networks answer.
    level = run(StrengthController(target), lambda scale: scale / (scale + center))
    assert level == pytest.approx(1.0 - (1.0 - target) * (1.0 + MARGIN), abs=0.05)


def test_it_raises_the_strength_below_the_path_and_lowers_it_above():
    assert begun().steer(level=0.1, progress=0.4, elapsed=0.05) > 1.0
    assert begun().steer(level=0.7, progress=0.0, elapsed=0.05) < 1.0


def test_a_move_is_limited_by_the_time_that_has_passed_and_by_the_start():
    controller = begun()
    controller.steer(level=0.0, progress=0.85, elapsed=0.01)
    controller.steer(level=0.999, progress=0.85, elapsed=0.01)
    assert abs(controller.log_scale) <= 2 * LARGEST_MOVE * 0.01
    controller.move(1000.0)
    assert controller.log_scale == controller.log_start + FARTHEST
    controller.move(-3000.0)
    assert controller.log_scale == controller.log_start - FARTHEST


def test_the_first_check_has_no_change_of_deviation():
    # 16 · e · elapsed alone; here e is 1 nat.
    controller = begun(target=0.8, level=0.0)
    aim = controller.path(PATH_ENDS)
    level = 1.0 / (1.0 + math.e * (1.0 - aim) / aim)
    controller.steer(level, progress=PATH_ENDS, elapsed=0.001)
    assert controller.log_scale == pytest.approx(16.0 * 0.001)


def test_a_rollback_halves_the_strength():
    controller = begun(scale=3.0)
    assert controller.roll_back() == pytest.approx(1.5)
    assert controller.log_scale == math.log(3.0) - math.log(2.0)


@pytest.mark.parametrize(
    ("level", "progress", "newly_empty", "destroyed"),
    [
        (0.10, 0.0, False, False),
        (0.09, 0.0, True, False),  # empty, but as the path asks for
        (0.20, 0.0, True, True),  # a layer has become empty ahead of the path
        (0.52, 0.0, False, True),  # more than half the target ahead of it
        (0.49, 0.0, False, False),
        (0.84, 1.0, False, False),
        (0.86, 1.0, False, True),  # less left than three quarters of what the target leaves
        (0.80, 0.85, True, True),
    ],
)
def test_weights_are_destroyed_where_too_little_is_left_or_too_soon(
    level, progress, newly_empty, destroyed
):
    assert begun().is_destroyed(level, progress, newly_empty) is destroyed


def test_floor_and_overshoot_are_settings():
    strict = begun(floor=0.97, overshoot=0.1)
    assert strict.is_destroyed(0.81, 1.0, False)
    assert strict.is_destroyed(0.2, 0.0, False)
    assert not begun().is_destroyed(0.81, 1.0, False)


@pytest.mark.parametrize("checks", [0, 1, 5])
def test_a_resumed_controller_goes_on_as_the_first_would(checks):
    first = begun()
    for check in range(checks):
        first.steer(0.1 + 0.05 * check, 0.1 * check, 0.1)
    second = StrengthController(0.8)
    second.resume(first.state())
    assert first.steer(0.4, 0.6, 0.1) == second.steer(0.4, 0.6, 0.1)
    assert first.path(0.7) == second.path(0.7)
    assert math.isnan(begun().state()[1])
