from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaleexp.errors import ConfigError
from scaleexp.scaling_rules import RULES, scaled_lr

kappas = st.floats(min_value=2**-20, max_value=2**20)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_the_base_lr_at_the_base_batch(rule):
    assert scaled_lr(rule, 0.3, 1.0) == 0.3


def test_goyal_2017_goes_from_0_1_at_256_to_3_2_at_8192_images():
    assert scaled_lr("linear", 0.1, 8192 / 256) == pytest.approx(3.2)


@given(kappas, kappas)
@pytest.mark.parametrize("rule", RULES)
def test_scaling_twice_is_scaling_once_by_the_product(rule, first, second):
    assert scaled_lr(rule, scaled_lr(rule, 0.1, first), second) == pytest.approx(scaled_lr(rule, 0.1, first * second))


@given(kappas)
def test_the_square_root_lies_halfway_between_none_and_linear_in_log_lr(kappa):
    none, root, linear = (scaled_lr(rule, 0.1, kappa) for rule in ("none", "sqrt", "linear"))
    assert root == pytest.approx(sqrt(none * linear))


def test_an_unknown_rule_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match="did you mean 'linear'"):
        scaled_lr("liner", 0.1, 2.0)


def test_a_rule_of_ones_own_is_named_by_its_module():
    assert scaled_lr("math:cbrt", 0.5, 27.0) == pytest.approx(1.5)


@pytest.mark.parametrize("rule", ["math:log", "builtins:str", "math:isnan"])
def test_a_factor_that_is_no_positive_number_is_refused(rule):
    with pytest.raises(ConfigError, match="must be a number above 0"):
        scaled_lr(rule, 0.1, 0.5)
