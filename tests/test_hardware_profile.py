"""Profiles carry figures with units and sources, and nothing is invented."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scaleexp.errors import ConfigError
from scaleexp.hardware_profile import builtin_hardware, peak_flop_per_s, read_hardware

ROOT = Path(__file__).parent.parent


def changed(tmp_path, **fields):
    raw = yaml.safe_load((ROOT / "clusters/hardware/a100-40gb.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw | fields))
    return str(path)


@pytest.mark.parametrize("name", builtin_hardware())
def test_every_figure_of_a_profile_is_of_a_plausible_size(name):
    profile = read_hardware(name)
    assert 1e9 < profile.memory_bytes < 1e12
    assert profile.peak_fp32_flop_per_s < peak_flop_per_s(profile, "fp16")
    assert profile.intra_node_bytes_per_s is not None
    assert profile.intra_node_bytes_per_s < profile.memory_bytes_per_s
    if profile.inter_node_bytes_per_s is not None:
        assert profile.inter_node_bytes_per_s < profile.intra_node_bytes_per_s
    assert profile.price_usd_per_hour is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"memory": 40}, "unknown key 'memory'"),
        ({"memory_bytes": "40 GB"}, "memory_bytes is"),
        ({"inter_node_bytes_per_s": -25e9}, "inter_node_bytes_per_s is -25000000000.0; it must be greater than 0"),
        ({"price_usd_per_hour": -1.0}, "price_usd_per_hour is -1.0"),
        ({"workers_per_node": 0}, "workers_per_node is 0"),
        ({"workers_per_node": 2.5}, "workers_per_node is 2.5"),
        ({"intra_node_latency_s": None}, "of which there is no number"),
        ({"price_usd_per_hour": 2.0}, "sources name no source for price_usd_per_hour"),
    ],
)
def test_a_profile_without_units_sources_or_sense_is_refused_in_one_sentence(tmp_path, fields, said):
    with pytest.raises(ConfigError) as refused:
        read_hardware(changed(tmp_path, **fields))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_of_one_s_own_works_like_a_built_in_one(tmp_path):
    assert read_hardware(changed(tmp_path, name="mine")).name == "mine"
