"""The distance of covariances without a D x D matrix, against D x D matrices in higher precision."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from research.thermostat.drift import covariance_distance


def reference(student: torch.Tensor, teacher: torch.Tensor) -> tuple[float, float]:
    """By the definition, with both D x D matrices, in exact rational arithmetic up to the last root."""

    def covariance(states: torch.Tensor) -> list[list[Fraction]]:
        rows = [[Fraction(value) for value in row] for row in states.double().tolist()]
        n, size = len(rows), len(rows[0])
        mean = [sum((row[j] for row in rows), Fraction(0)) / n for j in range(size)]
        centred = [[value - mean[j] for j, value in enumerate(row)] for row in rows]
        return [[sum(row[i] * row[j] for row in centred) / (n - 1) for j in range(size)] for i in range(size)]

    of_student, of_teacher = covariance(student), covariance(teacher)
    pairs = [(a, b) for x, y in zip(of_student, of_teacher, strict=True) for a, b in zip(x, y, strict=True)]
    # Scaled to a sum near one, since a float's range is smaller than a fraction's.
    square, norm = sum((a - b) ** 2 for a, b in pairs), sum(b * b for _, b in pairs)
    return float(square) ** 0.5, float(square / norm) ** 0.5


def normal(seed: int, n: int, size: int) -> torch.Tensor:
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 6),
    size=st.integers(1, 5),
    moved=st.sampled_from([1e3, 1.0, 1e-4, 1e-8, 1e-12]),
    offset=st.sampled_from([0.0, 100.0]),
)
def test_against_the_definition(seed: int, n: int, size: int, moved: float, offset: float) -> None:
    """Also where the covariances agree in nearly all their digits, and where the mean is far from zero."""
    teacher = normal(seed, n, size) + offset
    student = teacher + moved * normal(seed + 1, n, size)
    found, expected = covariance_distance(student, teacher), reference(student, teacher)
    assert found[0] == pytest.approx(expected[0], rel=1e-7, abs=1e-9 * moved * (1 + moved))
    assert found[1] == pytest.approx(expected[1], rel=1e-7, abs=1e-9 * moved * (1 + moved))


def test_equal_states_are_exactly_no_drift() -> None:
    states = normal(1, 40, 64).float() * 37 + 5
    assert covariance_distance(states, states.clone()) == (0.0, 0.0)


def test_a_difference_that_a_subtraction_of_squares_would_lose() -> None:
    teacher = normal(2, 30, 16)
    student = teacher * (1 + 1e-9)
    distance, relative = covariance_distance(student, teacher)
    # C_S = (1 + e)^2 C_T, so the relative drift is 2 e + e^2.
    assert relative == pytest.approx(2e-9, rel=1e-6)

    def covariance(states: torch.Tensor) -> torch.Tensor:
        return torch.cov(states.T)

    squares = [
        (covariance(a) * covariance(b)).sum() for a, b in ((student, student), (student, teacher), (teacher, teacher))
    ]
    naive = float((squares[0] - 2 * squares[1] + squares[2]).clamp_min(0).sqrt())
    assert naive != pytest.approx(distance, rel=0.1)


def test_a_shift_of_all_states_is_no_drift_and_a_rotation_is() -> None:
    teacher = normal(3, 30, 8)
    assert covariance_distance(teacher + 3.0, teacher)[1] < 1e-14
    turned = teacher @ torch.linalg.qr(normal(4, 8, 8))[0]
    expected = torch.cov(turned.T) - torch.cov(teacher.T)
    assert covariance_distance(turned, teacher)[0] == pytest.approx(float(expected.norm()), rel=1e-10)


def test_float32_states_are_accumulated_in_float64() -> None:
    teacher = (normal(5, 64, 256) * 1e-3 + 10).float()
    student = (teacher.double() * (1 + 1e-4)).float()
    expected = (torch.cov(student.double().T) - torch.cov(teacher.double().T)).norm()
    assert covariance_distance(student, teacher)[0] == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(
    ("student", "teacher", "said"),
    [
        (torch.zeros(3, 4), torch.zeros(3, 5), "same samples"),
        (torch.zeros(1, 4), torch.zeros(1, 4), "one sample"),
        (torch.ones(3, 4), torch.ones(3, 4), "all equal"),
        (torch.full((3, 4), float("nan")), torch.eye(3, 4), "student's.*diverged"),
    ],
)
def test_what_has_no_drift_is_refused(student: torch.Tensor, teacher: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        covariance_distance(student, teacher)
