"""`stfan` and `python -m stfan`: the command line, or one line that says which packages it lacks."""

import sys


def main():
    try:
        from stfan import cli

        cli.main()
    except ModuleNotFoundError as error:
        sys.exit(f"stfan: the command line needs {error.name}; run: pip install 'fac-ext[video]'")


if __name__ == "__main__":
    main()
