"""What the checks of a plan collect."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Checks:
    """What prevents a restore, with remedies, and what may surprise."""

    problems: list[str] = field(default_factory=list)
    remedies: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def refuse(self, problem: str, remedy: str | None = None) -> None:
        """Add what prevents the restore."""
        self.problems.append(problem)
        if remedy is not None:
            self.remedies.append(remedy)
