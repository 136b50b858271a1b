"""A process records what it is doing (its phase), and messages about a process that hangs or dies name its phase."""

import threading

import pytest

from app.base.phase import current_phase, phase, phase_of


def test_phases_nest_and_other_threads_see_them() -> None:
    seen: list[str] = []
    with phase("computing"), phase("waiting for data"):
        watcher = threading.Thread(target=lambda: seen.append(current_phase()))
        watcher.start()
        watcher.join()
    assert seen == ["waiting for data"]
    assert current_phase() == "starting"


def test_an_exception_keeps_the_innermost_phase_that_it_was_raised_in() -> None:
    @phase("evaluating")
    def fail() -> None:
        with phase("reading data"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as found, phase("computing"):
        fail()
    assert phase_of(found.value) == "reading data"
    assert phase_of(ValueError()) == "starting"
