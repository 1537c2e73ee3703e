"""What each check of a drill returns."""

import msgspec


class DrillCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of proof: how many objects were looked at, and what was wrong with them."""

    name: str
    checked: int
    findings: list[str] = []
