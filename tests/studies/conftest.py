"""Trained toy models and their record."""

import shutil

import pytest
from toy import DEQ_SPEC, TIED_SPEC, TOY, Made, contention

from bench.studies import inference, store
from bench.studies.models import Models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Both toy models, trained."""
    found = Models(tmp_path_factory.mktemp("models"), {})
    for spec in (DEQ_SPEC, TIED_SPEC):
        found.trained(spec)
    return found


@pytest.fixture(scope="session")
def made(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A whole toy record, with timings that are always the same, and its folder."""
    out = tmp_path_factory.mktemp("record")
    shutil.copytree(models.folder, out / ".cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "seconds", lambda model, inputs: 0.01)
        patch.setattr(inference, "Contention", contention(None))
        return store.measure_studies(out=out, config=TOY), out
