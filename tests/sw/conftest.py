"""Results of runs without a simulation: the RTL's numbers are the model's."""

import json
from dataclasses import asdict

import pytest

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.model.performance import Measurement
from rowmesh.sw.model.predict import predict
from rowmesh.sw.results.layer import LayerResult, Outputs
from rowmesh.sw.search.mapper import find_mapping
from rowmesh.sw.workload.layer import Layer

SMALL = ArchConfig(
    name="small",
    rows=4,
    cols=5,
    data_width=16,
    iact_spad=12,
    glb_iact_flits=512,
    glb_weight_flits=64,
    psum_bank_words=96,
)
LAYERS = (
    Layer(name="CONV", M=8, C=8, H=7, W=9, R=3, S=3, padding=1, output="requant"),
    Layer(name="POINT", M=8, C=8, H=6, W=5, R=1, S=1),
)


def _result_of(config, layer, mapping=None):
    mapping = mapping or find_mapping(config, layer)
    predicted = predict(mapping)
    return LayerResult(
        layer=layer.name,
        dataflow=mapping.dataflow,
        mapping={
            **mapping.to_json(),
            "loop_nest": mapping.loop_nest(),
        },
        predicted=predicted,
        rtl=Measurement(**predicted.to_json()),
        outputs=Outputs(checked=layer.outputs, mismatches=0),
        macs=layer.macs,
        pes=config.pes,
        cycles_per_second=1e5,
        arch=asdict(config),
        shape=layer.model_dump(by_alias=True),
        search={"dataflow": "rs", "objective": "cycles"},
    )


@pytest.fixture(scope="session")
def result_of():
    """Make a result of a layer on an architecture."""
    return _result_of


@pytest.fixture(scope="session")
def results():
    return [_result_of(SMALL, layer) for layer in LAYERS]


@pytest.fixture
def run_file(results, tmp_path):
    """Write a file of results; ``edit`` changes its list."""

    def write(edit=lambda entries: None, name="run.json"):
        entries = json.loads(json.dumps([result.to_json() for result in results]))
        edit(entries)
        path = tmp_path / name
        path.write_text(json.dumps(entries, indent=1))
        return path

    return write
