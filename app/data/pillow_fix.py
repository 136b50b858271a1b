"""What to say about the security fix that Pillow-SIMD lacks. Set-up says the same (app/setup/python.sh)."""

from __future__ import annotations

import PIL


def missing_fix() -> str:
    """Returns a warning for images without known checksums where Pillow-SIMD is installed, and "" otherwise."""
    if "post" not in PIL.__version__:  # Pillow-SIMD's versions are those of Pillow with .post0
        return ""
    return (
        f"Pillow-SIMD {PIL.__version__} lacks the fix of CVE-2026-112403: decode only images that you trust, such as"
        " ImageNet with its checksums. For other images: ./run.sh setup --stock-pillow"
    )
