"""What several rooms' tests share: one small synthetic data set."""

import pytest


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A few hundred synthetic windows of a few subjects, prepared once."""
    from kd.prepare import DataConfig, prepare

    config = DataConfig(source="synthetic", options={"subjects": 9, "minutes": 3.0})
    return prepare(config, tmp_path_factory.mktemp("cache"))
