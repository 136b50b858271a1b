"""A module for the server process from which loader processes are forked. Only the server imports it.

The import of this module also imports everything that loader processes need, so that they start in milliseconds. The
server ends when the training process ends.
"""

import app.data.loader  # noqa: F401
