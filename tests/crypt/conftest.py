"""Keys for the tests of encryption; each worker makes them once."""

from collections.abc import Iterator

import pytest

from tests.support import private_keys
from tests.support.private_keys import AgeKey, GpgKey


@pytest.fixture(scope="session")
def age_key(tmp_path_factory: pytest.TempPathFactory) -> AgeKey:
    return private_keys.age_key(tmp_path_factory.mktemp("age"))


@pytest.fixture(scope="session")
def other_age_key(tmp_path_factory: pytest.TempPathFactory) -> AgeKey:
    return private_keys.age_key(tmp_path_factory.mktemp("age"))


@pytest.fixture(scope="session")
def gpg_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpgKey]:
    key = private_keys.gpg_key(tmp_path_factory.mktemp("gpg"))
    yield key
    private_keys.close(key)
