"""Random legal architectures and layers: each is mapped, or refused in one line; none ends in a traceback."""

import pytest
from random_inputs import arch_text, random_arch, random_layer, workload_text

from rowmesh.hw.config import CHOICES, RANGES, ArchConfig
from rowmesh.sw.cli import main as cli
from rowmesh.sw.inputs import arch as spec


def map_pair(seed, folder, capsys):
    arch, workload = folder / "arch.yaml", folder / "layers.yaml"
    config = random_arch(seed)
    arch.write_text(arch_text(config))
    # the timing model takes minutes for the largest layers on a mesh
    workload.write_text(workload_text(random_layer(seed, large=config.clusters == 1)))
    code = cli.main(["map", str(arch), str(workload)])
    out, err = capsys.readouterr()
    assert code in (0, 2), f"seed {seed}: {err}"
    if code == 2:
        assert not out, seed
        assert err.endswith("\n"), seed
        assert err[:-1].isprintable(), f"seed {seed}: {err}"
    return code


def test_random_layers_are_mapped_or_refused_in_a_line(tmp_path, capsys):
    codes = [map_pair(seed, tmp_path, capsys) for seed in range(25)]
    assert {0, 2} == set(codes)


@pytest.mark.slow
def test_many_random_layers_are_mapped_or_refused_in_a_line(tmp_path, capsys):
    codes = [map_pair(seed, tmp_path, capsys) for seed in range(2000)]
    assert codes.count(0) > 400


def test_a_drawn_architecture_is_what_its_file_says(tmp_path):
    path = tmp_path / "arch.yaml"
    for seed in range(50):
        path.write_text(arch_text(random_arch(seed)))
        assert spec.load_arch(path) == random_arch(seed)


def test_every_field_is_drawn_to_its_ends():
    drawn = [random_arch(seed) for seed in range(400)]
    for name, (low, high) in RANGES.items():
        values = {getattr(config, name) for config in drawn}
        assert len(values) > 1, name
        if name not in ("mesh_rows", "mesh_cols", "drain_lanes"):
            assert {low, high} <= values, name
    for name, legal in CHOICES.items():
        assert {getattr(config, name) for config in drawn} == set(legal)


def test_the_ranges_are_the_rules():
    for name, (low, high) in RANGES.items():
        for value in (low - 1, high + 1):
            with pytest.raises(ValueError, match=f"ArchConfig.{name} must be from {low} to {high}, not {value} "):
                ArchConfig(**{name: value})
