"""How programs are run."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from pgkeep import processes

POLICY = "import os; print(os.sched_getscheduler(0))"


def policy_of_a_program() -> int:
    return int(subprocess.check_output([sys.executable, "-I", "-S", "-c", POLICY]))


def test_long_time_slices_for_threads_and_programs() -> None:
    with processes.in_long_slices(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(policy_of_a_program).result() == os.SCHED_BATCH
        assert pool.submit(os.sched_getscheduler, 0).result() == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_policy_that_was_chosen_for_us_stays() -> None:
    def within() -> int:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # of this thread
        with processes.in_long_slices():
            return os.sched_getscheduler(0)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(within).result() == os.SCHED_IDLE
