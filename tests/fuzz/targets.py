"""All targets by name; the order of their readers is part of the kept corpus, so append only."""

from collections.abc import Mapping

from . import artifacts, documents, encrypted, physical, sql_text, surroundings
from .checks import Target

TARGETS: Mapping[str, Target] = {
    "backup-files": artifacts.READERS,
    "sql": sql_text.READERS,
    "encrypted": encrypted.READERS,
    "physical": physical.READERS,
    "documents": documents.READERS,
    "surroundings": surroundings.READERS,
}
