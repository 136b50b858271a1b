"""A warning about a security fix that is missing from Pillow-SIMD. app/setup/python.sh prints the same text.

`predict` and `check-data` print it, because they may decode images from unknown sources. `doctor` prints it too.
"""

from __future__ import annotations

import sys

import PIL


def warn() -> None:
    """Print the warning to stderr if Pillow-SIMD is installed."""
    if warning := missing_fix():
        print(f"warning: {warning}", file=sys.stderr)


def missing_fix() -> str:
    """Return a warning about the missing security fix if Pillow-SIMD is installed, otherwise ""."""
    if "post" not in PIL.__version__:  # Pillow-SIMD has the version of Pillow followed by .post0
        return ""
    return (
        f"Pillow-SIMD {PIL.__version__} lacks the fix of CVE-2026-112403: decode only images that you trust, such as"
        " ImageNet with its checksums. For other images: ./run.sh setup --stock-pillow"
    )
