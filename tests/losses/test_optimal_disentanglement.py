"""The toy world in which the optimum of disentanglement can be counted out, in bits.

V = (C, A) and T = (C, B) with C, A and B independent and uniform on 4 values: H(V) = 4, I(V;T) = 2, H(V|T) = 2. A code
is a function of V alone, so that every information is a sum over the 64 outcomes.
"""

import math
from collections import Counter
from functools import cache
from itertools import product

import numpy as np
import pytest

OUTCOMES = list(product(range(4), repeat=3))  # (c, a, b), each of probability 1/64
IMAGE = tuple((c, a) for c, a, _ in OUTCOMES)
CAPTION = tuple((c, b) for c, _, b in OUTCOMES)

NOTHING, SHARED, EXCLUSIVE, ALL = "∅", "C", "A", "V"
CODES = {
    NOTHING: tuple(() for _ in OUTCOMES),
    SHARED: tuple(c for c, _, _ in OUTCOMES),
    EXCLUSIVE: tuple(a for _, a, _ in OUTCOMES),
    ALL: IMAGE,
}


@cache
def entropy(*variables):
    """H of the variables together, each a tuple of its value in every outcome."""
    return sum(n / len(OUTCOMES) * math.log2(len(OUTCOMES) / n) for n in Counter(zip(*variables, strict=True)).values())


def information(one, other, given=()):
    """I(one; other | given) = H(one, given) + H(other, given) - H(one, other, given) - H(given)."""
    return (
        entropy(one, *given) + entropy(other, *given) - entropy(one, other, *given) - (entropy(*given) if given else 0)
    )


def shared_objective(s, beta):
    return -information(s, CAPTION) + beta * information(s, IMAGE, [CAPTION])


def exclusive_objective(s, x):
    return -information(x, IMAGE, [s]) + information(x, s)


def coupled_objective(s, x, beta, gamma):
    return gamma * shared_objective(s, beta) + (1 - gamma) * exclusive_objective(s, x)


def is_ideal(s, x):
    """O1 sufficiency, O2 minimality, O3 coverage and O4 independence."""
    gaps = (
        information(IMAGE, CAPTION) - information(s, CAPTION),
        information(s, IMAGE, [CAPTION]),
        entropy(IMAGE) - entropy(s, x),
        information(s, x),
    )
    return all(abs(gap) < 1e-9 for gap in gaps)


def other_codes(count=10):
    """Random functions of V, of C alone and of A alone, with 2 to 16 values, and some chosen ones."""
    random = np.random.default_rng(0)
    codes = {}
    for i in range(count):
        values = int(random.integers(2, 17))
        of_image, of_part = random.integers(values, size=(4, 4)), random.integers(values, size=4)
        codes[f"f{i}(V)"] = tuple(int(of_image[c, a]) for c, a in IMAGE)
        codes[f"f{i}(C)"] = tuple(int(of_part[c]) for c, _ in IMAGE)
        codes[f"f{i}(A)"] = tuple(int(of_part[a]) for _, a in IMAGE)
    codes["C + A"] = tuple((c + a) % 4 for c, a in IMAGE)  # independent of C and of A, and covers V with either
    codes["C renamed"] = tuple(3 - c for c, _ in IMAGE)
    codes["half of C"] = tuple(c // 2 for c, _ in IMAGE)
    codes["the rest"] = tuple((c % 2, a) for c, a in IMAGE)
    return codes


FAMILY = CODES | other_codes()
PAIRS = list(product(FAMILY, repeat=2))
IDEAL = {(s, x) for s, x in PAIRS if is_ideal(FAMILY[s], FAMILY[x])}
COLLAPSED = {
    (s, x) for s, x in PAIRS if entropy(FAMILY[s]) < 1e-9 and entropy(FAMILY[x]) == pytest.approx(entropy(IMAGE))
}


def minima(objective):
    """Where the objective is least, all ties included."""
    least = min(objective.values())
    return {code for code, value in objective.items() if value < least + 1e-9}


def coupled_family(gamma, beta=0.1):
    return {(s, x): coupled_objective(FAMILY[s], FAMILY[x], beta, gamma) for s, x in PAIRS}


def test_the_world_has_the_stated_entropies():
    assert entropy(IMAGE) == pytest.approx(4)
    assert information(IMAGE, CAPTION) == pytest.approx(2)
    assert entropy(IMAGE, CAPTION) - entropy(CAPTION) == pytest.approx(2)


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
@pytest.mark.parametrize(
    ("s", "x", "of_shared", "of_exclusive", "joint"),
    [
        (SHARED, EXCLUSIVE, lambda beta: -2, -2, lambda beta: -4),
        (ALL, EXCLUSIVE, lambda beta: -2 + 2 * beta, 2, lambda beta: 2 * beta),
        (SHARED, ALL, lambda beta: -2, 0, lambda beta: -2),
        (NOTHING, ALL, lambda beta: 0, -4, lambda beta: -4),
        (SHARED, NOTHING, lambda beta: -2, 0, lambda beta: -2),
    ],
)
def test_the_table_of_objectives(s, x, of_shared, of_exclusive, joint, beta):
    s, x = CODES[s], CODES[x]
    assert shared_objective(s, beta) == pytest.approx(of_shared(beta))
    assert exclusive_objective(s, x) == pytest.approx(of_exclusive)
    assert 2 * coupled_objective(s, x, beta, 0.5) == pytest.approx(joint(beta))


def test_the_ideal_codes_hold_all_of_the_image_once():
    for s, x in IDEAL:
        assert information(FAMILY[s], IMAGE) == pytest.approx(2)
        assert information(FAMILY[x], IMAGE) == pytest.approx(2)
        assert information(FAMILY[x], CAPTION) == pytest.approx(0)
    assert (SHARED, EXCLUSIVE) in IDEAL
    assert (SHARED, "C + A") in IDEAL  # given C it is A renamed: as good, for it tells nothing of T
    assert ("C + A", EXCLUSIVE) not in IDEAL


def test_proposition_1_the_shared_objective_certifies_sufficiency_and_minimality():
    for name, s in FAMILY.items():
        gap = shared_objective(s, 0.1) + information(IMAGE, CAPTION)
        assert gap > -1e-9, name
        assert (gap < 1e-9) == any(name == ideal for ideal, _ in IDEAL), name


def test_proposition_1_the_exclusive_objective_certifies_coverage_and_independence():
    for s, x in PAIRS:
        remainder = entropy(IMAGE, FAMILY[s]) - entropy(FAMILY[s])
        gap = exclusive_objective(FAMILY[s], FAMILY[x]) + remainder
        covers = entropy(FAMILY[s], FAMILY[x]) == pytest.approx(4)
        independent = information(FAMILY[s], FAMILY[x]) == pytest.approx(0, abs=1e-9)
        assert gap > -1e-9, (s, x)
        assert (gap < 1e-9) == (covers and independent), (s, x)


def test_both_decoupled_minima_together_are_the_ideal_codes():
    shared = minima({name: shared_objective(s, 0.1) for name, s in FAMILY.items()})
    found = {
        (s, x) for s in shared for x in minima({x: exclusive_objective(FAMILY[s], code) for x, code in FAMILY.items()})
    }
    assert found == IDEAL


def test_without_beta_the_shared_objective_does_not_tell_c_from_all_of_the_image():
    assert {SHARED, ALL} <= minima({name: shared_objective(s, 0.0) for name, s in FAMILY.items()})


@pytest.mark.parametrize("gamma", [0.3, 0.5, 0.6, 0.9])
def test_proposition_2_bounds_the_coupled_objective(gamma):
    beta = 0.1
    for s, x in PAIRS:
        code, other = FAMILY[s], FAMILY[x]
        bound = (
            -(1 - gamma) * entropy(IMAGE)
            - (2 * gamma - 1) * information(code, CAPTION)
            + (gamma * beta + 1 - gamma) * information(code, IMAGE, [CAPTION])
            + (1 - gamma) * information(code, other)
        )
        assert coupled_objective(code, other, beta, gamma) >= bound - 1e-9, (s, x)


@pytest.mark.parametrize("gamma", [0.51, 0.6, 0.9])
def test_coupled_with_gamma_above_half_only_the_ideal_codes_are_best(gamma):
    objective = coupled_family(gamma)
    assert minima(objective) == IDEAL
    assert min(objective.values()) == pytest.approx(-(1 - gamma) * 4 - (2 * gamma - 1) * 2)


@pytest.mark.parametrize("gamma", [0.1, 0.4, 0.49])
def test_coupled_with_gamma_below_half_prefers_an_empty_shared_code(gamma):
    objective = coupled_family(gamma)
    assert objective[NOTHING, ALL] < objective[SHARED, EXCLUSIVE]
    assert minima(objective) == COLLAPSED


def test_coupled_with_gamma_of_half_collapse_and_all_between_tie_with_the_ideal():
    best = minima(coupled_family(0.5))
    assert best >= IDEAL | COLLAPSED
    assert ("half of C", "the rest") in best - IDEAL - COLLAPSED
