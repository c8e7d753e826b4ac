"""The console script `thalweg`.

The commands live in `thalweg.lab.commands` and need the ``lab`` extra; this module imports nothing but the standard
library, so that it can say what to install when the extra is missing.
"""

from __future__ import annotations

import sys

LAB_PACKAGES = frozenset(
    {
        "typer",
        "rich",
        "numpy",
        "scipy",
        "sklearn",
        "jinja2",
        "optuna",
        "sqlalchemy",
        "vl_convert",
        "matplotlib",
        "PIL",
    }
)


def main() -> int:
    """Run the command line; returns its exit code: 0, 2 for a usage error, 130 after Ctrl-C."""
    try:
        from thalweg.lab.commands import app
        from thalweg.lab.errors import LabError
    except ModuleNotFoundError as error:
        return _missing(error)
    try:
        app(prog_name="thalweg")
    except LabError as error:
        print(f"thalweg: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        return _missing(error)
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _missing(error: ModuleNotFoundError) -> int:
    """Name the extra when one of its packages is what is missing; anything else is a fault worth its traceback."""
    package = (error.name or "").partition(".")[0]
    if package not in LAB_PACKAGES:
        raise error
    print(
        f"thalweg: this command needs {package}, which is not installed: pip install 'thalweg[lab]'",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
