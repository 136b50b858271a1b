"""If Pillow-SIMD is installed, the program warns about it, with the same text as set-up."""

from pathlib import Path

import PIL
import pytest

from app.data import pillow_fix

SETUP = Path(__file__).parents[2] / "app/setup/python.sh"


def test_the_warning_is_that_of_set_up_and_ends_with_stock_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL, "__version__", "12.1.1.post0")
    warning = pillow_fix.missing_fix()
    assert warning.startswith("Pillow-SIMD 12.1.1.post0 lacks the fix of CVE-2026-112403: ")
    in_setup = SETUP.read_text().replace('" \\\n    "', " ")
    assert warning.partition(" lacks ")[2] in in_setup
    monkeypatch.setattr(PIL, "__version__", "13.0.0")
    assert pillow_fix.missing_fix() == ""
