"""The switches: as draccus reads them, refused where they cannot work, and in the name of the run."""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import draccus
import pytest
from research.config import SurgeryConfig, ThermostatConfig


@dataclass
class Upstream:
    batch_size: int = 16
    surgery: SurgeryConfig = field(default_factory=SurgeryConfig)


def parsed(*arguments: str) -> SurgeryConfig:
    return draccus.parse(Upstream, args=list(arguments)).surgery


def test_off_by_default_and_advised_values_are_sound() -> None:
    assert parsed() == SurgeryConfig()
    assert parsed().enabled is False
    SurgeryConfig().validate()


def test_the_start_is_the_middle_of_the_thermostats_range() -> None:
    config = SurgeryConfig()
    limits = config.thermostat
    assert config.beta == pytest.approx((limits.beta_min + limits.beta_max) / 2)
    assert config.gamma == pytest.approx((limits.gamma_min + limits.gamma_max) / 2)


def test_draccus_reads_every_field_from_the_command_line_and_back() -> None:
    given = {
        "enabled": "True", "subspace_dir": "a/b", "probe_dir": "p", "beta": "0.25", "gamma": "0", "hsw": "False",
        "resume": "r", "log_every": "3", "seed": "9", "thermostat.every": "11", "thermostat.drift_low": "0.125",
        "thermostat.drift_high": "2", "thermostat.beta_min": "0.0625", "allow_other_teacher": "True",
    }  # fmt: skip
    config = parsed(*(word for name, value in given.items() for word in (f"--surgery.{name}", value)))
    thermostat = ThermostatConfig(every=11, drift_low=0.125, drift_high=2.0, beta_min=0.0625)
    assert config == SurgeryConfig(
        enabled=True, subspace_dir=Path("a/b"), probe_dir=Path("p"), beta=0.25, gamma=0.0, hsw=False, log_every=3,
        seed=9, resume=Path("r"), thermostat=thermostat, allow_other_teacher=True,
    )  # fmt: skip
    assert draccus.decode(Upstream, draccus.encode(Upstream(surgery=config))).surgery == config


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"beta": 1.5}, "beta"),
        ({"gamma": -0.1}, "gamma"),
        ({"beta": float("nan")}, "beta"),
        ({"log_every": 0}, "log_every"),
        ({"hsw": False, "thermostat": ThermostatConfig(enabled=False)}, "nothing to do"),
        ({"thermostat": ThermostatConfig(every=0)}, "every"),
        ({"thermostat": ThermostatConfig(samples=1)}, "samples"),
        ({"thermostat": ThermostatConfig(batch_size=0)}, "batch_size"),
        ({"thermostat": ThermostatConfig(smoothing=1.0)}, "smoothing"),
        ({"thermostat": ThermostatConfig(beta_min=0.9)}, "beta_min"),
        ({"thermostat": ThermostatConfig(gamma_max=1.1)}, "gamma_max"),
        ({"thermostat": ThermostatConfig(drift_low=0.1)}, "both, or neither"),
        ({"thermostat": ThermostatConfig(drift_low=0.5, drift_high=0.5)}, "drift_low < drift_high"),
        ({"thermostat": ThermostatConfig(cold_start=1)}, "cold_start"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SurgeryConfig(**changed).validate()


def test_the_tag_is_empty_when_off_and_tells_every_setting_apart() -> None:
    assert SurgeryConfig(beta=0.3).tag() == ""
    on = SurgeryConfig(enabled=True)
    tags = {on.tag()}
    changed = {
        "subspace_dir": Path("x/icms_openvla7b"), "probe_dir": Path("y"), "beta": 0.3, "gamma": 0.2, "hsw": False,
        "seed": 8,
    }  # fmt: skip
    for name, value in changed.items():
        tags.add(dataclasses.replace(on, **{name: value}).tag())
    for spec in dataclasses.fields(ThermostatConfig):
        value = getattr(on.thermostat, spec.name)
        other = 0.03 if value is None else (not value if isinstance(value, bool) else value + 1)
        tags.add(dataclasses.replace(on, thermostat=dataclasses.replace(on.thermostat, **{spec.name: other})).tag())
    assert len(tags) == 1 + len(changed) + len(dataclasses.fields(ThermostatConfig))
    assert all(re.fullmatch(r"\+surgery-[0-9a-f]{8}", tag) for tag in tags)


def test_a_resumed_run_has_its_first_runs_name() -> None:
    on = SurgeryConfig(enabled=True)
    assert dataclasses.replace(on, resume=Path("r"), log_every=1, allow_other_teacher=True).tag() == on.tag()
