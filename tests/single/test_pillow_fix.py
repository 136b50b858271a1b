"""If Pillow-SIMD is installed, the program warns about it, with the same text as set-up."""

from collections.abc import Callable, Sequence
from pathlib import Path

import PIL
import pytest

from app.base.errors import UserError
from app.commands import doctor, predict
from app.commands.data import check_data
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


@pytest.mark.parametrize("version", ["12.1.1.post0", "13.0.0"])
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (predict.main, ["no-such-run", __file__]),
        (check_data.main, ["no-such-folder"]),
        (doctor.main, ["-H", "no-such-host.invalid:1", "--timeout", "5"]),
    ],
)
def test_commands_that_decode_images_of_strangers_say_it(
    command: Callable[[Sequence[str]], None],
    words: list[str],
    version: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Commands print the warning about Pillow-SIMD before they start their work, which fails in this test."""
    monkeypatch.setattr(PIL, "__version__", version)
    with pytest.raises((UserError, SystemExit)):
        command(words)
    said = capsys.readouterr().err
    assert said == (f"warning: {pillow_fix.missing_fix()}\n" if "post" in version else "")
