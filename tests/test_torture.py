"""The plan of make torture: a seed is repeated exactly, and everything is chosen."""

from bench.torture import plan, report

STEPS = 2000


def test_a_seed_is_repeated_and_another_one_differs() -> None:
    first = [plan.step(7, number) for number in range(50)]
    assert first == [plan.step(7, number) for number in range(50)]
    assert plan.step(7, 41) == first[41]  # a step depends on no other one
    assert first != [plan.step(8, number) for number in range(50)]


def test_every_operation_and_every_fault_appears() -> None:
    steps = [plan.step(1, number) for number in range(STEPS)]
    chosen = {
        (operation.name, operation.variant) for step in steps for operation in step.operations
    }
    assert chosen == {
        (name, variant) for name, (_, variants) in plan.OPERATIONS.items() for variant in variants
    }
    assert {step.fault.name for step in steps if step.fault} == set(plan.FAULTS)
    assert {step.writer for step in steps} == set(plan.WRITERS)
    assert {len(step.operations) for step in steps} == {1, 2}


def test_without_point_in_time_nothing_of_it_is_chosen() -> None:
    steps = [plan.step(1, number, pitr=False) for number in range(500)]
    assert not [
        operation for step in steps for operation in step.operations if "pitr" in operation.name
    ]
    fitting = [name for name, (_, names) in plan.FAULTS.items() if "backup" in names]
    assert {step.fault.name for step in steps if step.fault} >= set(fitting) - {"clock: ahead"}


def test_the_page_counts_runs_by_command_and_fault() -> None:
    result = {
        "seed": 1, "version": "17.10", "minutes": 30.0, "steps": 3, "together": 1, "restored": 2,
        "left": 1, "failed": [], "commit": "0" * 10, "date": "2026-11-27", "cores": 2,
        "sample": 0.25,
        "outcomes": {
            "backup: daily|SIGKILL|-9": 1, "backup: manual|none|0": 1,
            "pitr restore: time|next to another one|0": 1,
        },
    }  # fmt: skip
    text = report.page([result])
    assert "| 1 | 17.10 | 30 | 3 | 1 | 2 | 1 | 1 | none |" in text
    assert "| backup | 1 (1) |  | 1 (0) |" in text
    assert "| SIGKILL | 1 | -9: 1 |" in text
