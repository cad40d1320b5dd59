"""Weight files with code in them."""

import os


class Hostile:
    """Object that runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch '{self.mark}'",)
