"""`stfan` and `python -m stfan`: run the command line, or say in one line which package it lacks."""

import os
import sys

from stfan.internal_errors import describe_internal, traceback_wanted


def main() -> None:
    """Run the command line."""
    # The network's largest tensors are allocated anew for every frame; on Linux, huge pages make that cheap.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        from stfan.cli import app

        app.main()
    except KeyboardInterrupt:
        print("stfan: interrupted", file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as error:
        reason = f"needs {error.name}" if error.name else f"cannot be loaded: {error}"
        sys.exit(f"stfan: the command line {reason}; run: pip install 'fac-ext[video]'")
    except ImportError as error:
        sys.exit(f"stfan: {error}")
    except Exception as error:
        if traceback_wanted():
            raise
        sys.exit(f"stfan: {describe_internal(error)}")


if __name__ == "__main__":
    main()
