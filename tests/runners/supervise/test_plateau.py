"""The plateau test: exact cases, what the definition says, invariances, and a small simulation."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import pairwise

import pytest

from look.words import Words
from runners.supervise.plateau import LEFT_OUT, SAID, SLOPE, Settings, Verdict, Watch
from runners.supervise.plateau import ROWS as ROWS_SO_FAR
from runners.supervise.plateau_fit import Noise, above, block_means, fit, noise_of

ROWS = 1000


def curve(shape: Callable[[float], float], noise: float, seed: int = 1, rows: int = ROWS) -> list[float]:
    draw = random.Random(seed)
    return [shape(row / rows) + noise * draw.gauss(0, 1) for row in range(1, rows + 1)]


def alarm(losses: Iterable[float], settings: Settings | None = None, total: int | None = ROWS) -> Verdict | None:
    """The first alarm of a run that logs every step."""
    watch = Watch(settings, total)
    for step, loss in enumerate(losses, 1):
        watch.add(step, loss)
        if watch.verdict().plateau:
            return watch.verdict()
    return None


def last(losses: Iterable[float], total: int | None = ROWS, epochs: float | None = None) -> Verdict:
    """What is said at the end, alarm or not."""
    watch = Watch(None, total)
    for step, loss in enumerate(losses, 1):
        watch.add(step, loss, epochs and epochs * step / ROWS)
        watch.verdict()
    return watch.verdict()


def stops(at: float) -> Callable[[float], float]:
    return lambda u: 1 - min(u, at) / at


# --- the fit, against normal equations in fractions


def least_squares(columns: list[list[Fraction]], values: list[Fraction]) -> list[Fraction]:
    """Gauss's elimination of the normal equations, exactly."""
    size = len(columns)
    rows = [
        [sum(a * b for a, b in zip(one, other, strict=True)) for other in columns]
        + [sum(a * b for a, b in zip(one, values, strict=True))]
        for one in columns
    ]
    for i in range(size):
        for j in range(size):
            if j != i:
                factor = rows[j][i] / rows[i][i]
                rows[j] = [b - factor * a for a, b in zip(rows[i], rows[j], strict=True)]
    return [rows[i][size] / rows[i][i] for i in range(size)]


def test_without_outliers_it_is_least_squares_with_the_long_run_variance() -> None:
    steps = [Fraction(10 * i) for i in range(40)]
    values = [3 - step / 100 + Fraction((-1) ** i * (5 + i % 3), 10) for i, step in enumerate(steps)]
    start, slope = least_squares([[Fraction(1)] * 40, steps], values)
    rest = [value - start - slope * step for step, value in zip(steps, values, strict=True)]
    mean = sum(steps) / 40
    spread = sum((step - mean) ** 2 for step in steps)
    # phi = 1/2 makes the long-run variance three times the variance, and takes six values away.
    variance = sum(one * one for one in rest) / (40 - 6)
    line = fit([float(step) for step in steps], [float(value) for value in values], Noise(0.5, 100))
    assert line is not None
    assert line.slope == pytest.approx(float(slope), rel=1e-9)
    assert line.middle == pytest.approx(float(start + slope * mean), rel=1e-9)
    assert line.error == pytest.approx(math.sqrt(3 * variance / spread), rel=1e-9)
    assert line.middle_error == pytest.approx(math.sqrt(3 * variance / 40), rel=1e-9)
    assert line.degrees == int(1 / (1 / 40 + 2 * 3 / 100))


def test_phi_is_that_of_the_residuals_of_a_quadratic_freed_of_its_bias() -> None:
    draw = random.Random(5)
    values = [Fraction(draw.randint(-50, 50), 100) for _ in range(60)]
    values = [one + Fraction(3, 5) * other for one, other in pairwise(values)]
    places = [Fraction(i) for i in range(59)]
    columns = [[place**power for place in places] for power in range(3)]
    weights = least_squares(columns, values)
    rest = [
        value - sum(w * column[i] for w, column in zip(weights, columns, strict=True)) for i, value in enumerate(values)
    ]
    plain = sum(rest[i] * rest[i + 1] for i in range(58)) / sum(one * one for one in rest)
    # E[phi-hat] = phi - (3 + 5 phi)/n, solved for phi.
    assert noise_of([float(value) for value in values]).phi == pytest.approx(float((59 * plain + 3) / 54), rel=1e-9)


def correlated(draw: random.Random, phi: float, count: int) -> list[float]:
    value, values = draw.gauss(0, 1), []
    for _ in range(count):
        values.append(value)
        value = phi * value + math.sqrt(1 - phi * phi) * draw.gauss(0, 1)
    return values


@pytest.mark.parametrize("phi", [0.0, 0.4, 0.8])
def test_phi_and_the_bound_are_right_on_average(phi: float) -> None:
    """A one-sided 95 % bound of the slope of noise alone holds 0 about as often; the naive one does not."""
    draw = random.Random(3)
    steps = [float(step) for step in range(300)]
    found, held, naive = 0.0, 0, 0
    for _ in range(200):
        values = correlated(draw, phi, 300)
        noise = noise_of(values)
        line, white = fit(steps[-120:], values[-120:], noise), fit(steps[-120:], values[-120:], Noise(0.0, 300))
        assert line is not None
        assert white is not None
        found += noise.phi / 200
        held += above(line.slope / line.error, line.degrees) > 0.05
        naive += above(white.slope / white.error, white.degrees) > 0.05
    assert found == pytest.approx(phi, abs=0.05)
    assert held / 200 >= 0.91  # 0.95 less 2.6 standard errors
    if phi > 0.5:
        assert naive / 200 < 0.85


def test_outliers_hardly_turn_the_line() -> None:
    draw = random.Random(2)
    steps = [float(step) for step in range(100)]
    values = [1 - 0.01 * step + 0.1 * draw.gauss(0, 1) for step in steps]
    clean = fit(steps, values, Noise(0.0, 100))
    for place in (3, 40, 95, 97):
        values[place] += 50
    spiked = fit(steps, values, Noise(0.0, 100))
    assert clean is not None
    assert spiked is not None
    assert abs(spiked.slope - clean.slope) < 1.5 * clean.error
    assert spiked.error < 1.5 * clean.error


def test_a_line_needs_blocks_worth_four_independent_ones() -> None:
    steps, values = [float(i) for i in range(30)], [float(i % 3) for i in range(30)]
    assert fit(steps[:15], values[:15], Noise(0.0, 30)) is None
    assert fit(steps[:16], values[:16], Noise(0.0, 30)) is not None
    assert fit(steps, values, Noise(0.8, 30)) is None  # worth 30/9


def test_blocks_are_means_of_equally_many_rows_and_hold_the_newest() -> None:
    steps, values, size = block_means([float(i) for i in range(1001)], [float(i * i) for i in range(1001)])
    assert size == 3
    assert len(steps) == 333
    assert steps[-1] == 999
    assert values[-1] == pytest.approx((998**2 + 999**2 + 1000**2) / 3)
    assert steps[0] == 3  # rows 0 and 1 are left out


def test_p_is_that_of_printed_tables() -> None:
    assert above(2.776, 4) == pytest.approx(0.025, abs=2e-5)
    assert above(-2.776, 4) == pytest.approx(0.975, abs=2e-5)
    assert (above(math.inf, 7), above(-math.inf, 7)) == (0.0, 1.0)


# --- exact losses


def test_a_straight_fall_without_noise_is_never_a_plateau() -> None:
    assert alarm([5 - 0.004 * step for step in range(1, 1001)]) is None
    said = last([5 - 0.004 * step for step in range(1, 1001)])
    assert said.slope == pytest.approx(-0.004)
    assert said.reason.startswith("the loss falls")
    assert said.p == pytest.approx(1)


def test_a_loss_that_never_changes_is_a_plateau() -> None:
    for total in (ROWS, None):
        said = alarm([0.7] * 1000, total=total)
        assert said is not None
        assert (said.slope, said.low, said.high, said.p) == (0, 0, 0, 0)
        assert "has not fallen" in said.reason


def test_a_fall_that_stops_without_noise_is_seen_at_the_first_look_that_can() -> None:
    said = alarm(curve(stops(0.5), 0.0))
    assert said is not None
    assert 500 < said.step <= 600
    assert "has stopped falling" in said.reason


@pytest.mark.parametrize("a", [0.1, 0.3, 0.5])
def test_power_laws_never_stop_by_definition(a: float) -> None:
    for noise in (0.0, 0.003, 0.03):
        losses = curve(lambda u: (u + 0.001) ** -a, noise)
        assert alarm(losses) is None, noise
        assert alarm(losses, total=None) is None, noise


@pytest.mark.parametrize(("share", "plateau"), [(0.75, True), (1.3, False)])
def test_the_rate_that_matters_is_a_third_of_the_mean_rate_since_a_quarter(share: float, plateau: bool) -> None:
    """A straight fall that goes on at a lower rate after 0.6: where that is of the mean rate, in closed form."""
    # Of the shortest window (0.08) the middle is at 0.96; a quarter of the way there is 0.24 (0.192 to 0.288). With a
    # fall of 1 a run until 0.6 and of r after it, r = share/3 * (0.6 - 0.24 + 0.36 r)/0.72.
    rate = share / 3 * 0.36 / 0.72 / (1 - share / 3 * 0.36 / 0.72)
    losses = curve(lambda u: -min(u, 0.6) - rate * max(u - 0.6, 0), 1e-4)
    said = last(losses)
    assert said.plateau is plateau
    assert said.slope == pytest.approx(-rate / ROWS, rel=0.05)
    assert said.low < -rate / ROWS < said.high


# --- what it is not fooled by


def test_a_slope_that_is_not_significant_is_no_plateau() -> None:
    """60 noisy rows of a straight fall: nobody could see it, and that is what is said."""
    losses = curve(lambda u: 1 - u, 0.6, rows=60)
    said = last(losses, total=60)
    assert not said.plateau
    assert said.low < 0 < said.high
    assert said.reason.startswith("cannot tell")


def test_a_rise_is_named() -> None:
    said = alarm(curve(lambda u: stops(0.4)(u) + 3 * max(u - 0.4, 0), 0.01))
    assert said is not None
    assert said.low > 0
    assert said.reason.startswith("the loss rises")


def test_spikes_neither_hide_nor_feign_a_plateau() -> None:
    draw = random.Random(8)
    spikes = [draw.uniform(0.5, 2) if draw.random() < 0.01 else 0.0 for _ in range(ROWS)]
    for shape, seen in ((stops(0.5), True), (lambda u: 1 - u, False)):
        found = alarm([loss + spike for loss, spike in zip(curve(shape, 0.01), spikes, strict=True)])
        assert (found is not None) is seen
        assert found is None or 500 < found.step <= 700


def test_a_loss_that_falls_where_epochs_begin_wants_windows_of_two_epochs() -> None:
    losses = curve(lambda u: -math.floor(5 * u) / 5, 0.003)
    assert alarm(losses) is not None  # without epochs, the first one looks like the end
    said = last(losses, epochs=5)
    assert not said.plateau
    assert said.since <= 600
    assert said.slope == pytest.approx(-1 / ROWS, rel=0.3)
    few = last(losses, epochs=3)
    assert few.reason.startswith("cannot tell: too few epochs")
    # One pass through the data: no step can come.
    assert last(curve(stops(0.5), 0.01), epochs=1).plateau


def test_before_there_is_data_it_says_so() -> None:
    early = last([1.0] * 40)
    assert (early.step, early.plateau) == (-1, False)
    assert early.reason.startswith("too early")
    assert math.isnan(early.slope)
    assert last([1.0] * 199).step == -1
    assert last([1.0] * 200).step == 200
    assert last([1.0] * 199, total=None).step == -1


# --- invariances


def test_units_of_loss_and_step_do_not_matter() -> None:
    losses = curve(stops(0.5), 0.02)
    plain = alarm(losses)
    assert plain is not None
    other = alarm([40 * loss - 7 for loss in losses])
    assert other is not None
    assert other.step == plain.step
    assert other.slope == pytest.approx(40 * plain.slope)
    assert other.statistic == pytest.approx(plain.statistic)
    watch = Watch(total_steps=25 * ROWS)
    for step, loss in enumerate(losses, 1):
        watch.add(25 * step, loss)
        if watch.verdict().plateau:
            break
    assert watch.verdict().step == 25 * plain.step
    assert watch.verdict().slope == pytest.approx(plain.slope / 25)
    assert watch.verdict().statistic == pytest.approx(plain.statistic)


def test_losses_that_are_not_finite_are_left_out_and_counted() -> None:
    losses = curve(stops(0.5), 0.02)
    holes = {300, 301, 555}
    watch, without = Watch(total_steps=ROWS), Watch(total_steps=ROWS)
    for step, loss in enumerate(losses, 1):
        watch.add(step, math.nan if step in holes else loss)
        if step not in holes:
            without.add(step, loss)
    left, right = watch.verdict(), without.verdict()
    assert (left.slope, left.p, left.plateau) == (right.slope, right.p, right.plateau)
    assert "3 rows without a finite loss were left out" in left.reason
    assert "left out" not in right.reason


def test_a_resume_replaces_the_rows_after_it() -> None:
    losses = curve(stops(0.5), 0.02)
    plain, resumed = Watch(total_steps=ROWS), Watch(total_steps=ROWS)
    for step, loss in enumerate(losses[:350], 1):  # rows from 301 on are lost, and were different
        resumed.add(step, loss if step <= 300 else loss + 5)
    for step, loss in enumerate(losses[:800], 1):
        plain.add(step, loss)
        if step > 300:
            resumed.add(step, loss)
    assert resumed.verdict() == plain.verdict()
    assert plain.verdict().step == 800


@pytest.mark.parametrize("total", [ROWS, None])
def test_spent_looks_are_not_taken_again(total: int | None) -> None:
    losses = curve(stops(0.3), 0.02)
    plain, resumed = Watch(total_steps=total), Watch(total_steps=total)
    looks: dict[str, list[int]] = {"plain": [], "resumed": []}
    for step, loss in enumerate(losses, 1):
        for name, watch in (("plain", plain), ("resumed", resumed)):
            if name == "resumed" and step == 500:
                watch.spend(612)  # an earlier attempt had come so far
            watch.add(step, loss)
            if watch.verdict().step == step:
                looks[name].append(step)
    assert [step for step in looks["resumed"] if step < 500] == [step for step in looks["plain"] if step < 500]
    later = [step for step in looks["resumed"] if step >= 500]
    assert min(later) > 612
    assert len(later) <= len([step for step in looks["plain"] if step > 612])


def test_a_verdict_says_the_same_in_parts_and_in_words() -> None:
    said = alarm(curve(stops(0.5), 0.02))
    assert said is not None
    assert said.kind == "stopped"
    assert [label for label, _ in said.said] == [SAID["stopped"], SLOPE]
    assert float(said.said[1][1]["matters"]) == pytest.approx(said.matters, rel=0.01)
    for label in (*SAID.values(), SLOPE, ROWS_SO_FAR, LEFT_OUT):
        assert re.search("[一-鿿]", Words("zh")(label)), label


def test_looks_share_alpha_and_asking_more_often_takes_no_more_of_them() -> None:
    losses = curve(lambda u: 1 - u, 0.3, rows=3000)
    for total in (3000, None):
        watch, levels = Watch(total_steps=total), {}
        for step, loss in enumerate(losses, 1):
            watch.add(step, loss)
            for _ in range(3):
                said = watch.verdict()
            levels[said.step] = said.level
        levels.pop(-1)
        if total is None:
            assert sum(levels.values()) <= 0.05 + 1e-12
        else:
            assert len(levels) == 33
            assert [*levels.values()] == pytest.approx([0.05 / 16] * 33)
    # Beyond the total there are no further looks: their share of alpha is spent.
    watch = Watch(total_steps=500)
    for step in range(1, 2001):
        watch.add(step, 1 - step / 2000 + 0.01 * (step % 7))
        said = watch.verdict()
    assert said.step == 500


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"matters": 1.5}, "matters"),
        ({"shortest": 0.6}, "longest"),
        ({"rows": 10}, "10 rows"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        Settings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="total_steps is 0"):
        Watch(total_steps=0)


def test_a_stricter_setting_alarms_later() -> None:
    losses = curve(stops(0.3), 0.05)
    usual, sure = alarm(losses), alarm(losses, Settings(alpha=1e-5))
    fine = alarm(losses, Settings(matters=0.1))
    assert usual is not None
    assert sure is None or sure.step > usual.step
    assert fine is None or fine.step > usual.step


def test_a_loss_that_was_lost_breaks_nothing() -> None:
    """It grows until floats end, and comes back at a lower rate."""
    growing = [10.0 ** (3 * step) for step in range(1, 100)]
    watch = Watch(None, ROWS)
    for step, loss in enumerate([*growing, math.inf, math.nan, *curve(lambda t: 2 - t, 0.05)], 1):
        watch.add(step, loss)
        assert not watch.verdict().plateau
