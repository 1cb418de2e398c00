"""The console script. Answers ``--version`` by itself: loading the command line takes five times as long."""

import sys

__all__ = ["main"]


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        from voxtractl import __version__

        print(f"voxtractl {__version__}")  # noqa: T201
        return
    from voxtractl.cli.entry import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
