"""The console script. Answers ``--version`` by itself: loading the command line takes five times as long."""

import sys

__all__ = ["main"]

AT_EXIT = 5.0  # seconds


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        from voxtractl import __version__

        try:
            print(f"voxtractl {__version__}", flush=True)  # noqa: T201
        except OSError:  # the command line says what is wrong with stdout
            pass
        else:
            return
    import gc

    # A command makes many objects and keeps most of them until it ends: the collector finds nothing, often.
    # At the usual threshold of 700 that is 8 % of start-up, and a third of reading 10,000 tenants.
    gc.set_threshold(200_000)
    try:
        from voxtractl.cli.entry import run

        code = run(sys.argv[1:], last=True)
    except KeyboardInterrupt:  # before the command line was there to tell it, or once more at its end
        code = 130
    import os
    import signal
    from threading import Timer

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends anyway
    # Python waits for threads of a ThreadPoolExecutor, and for what is to be done at exit: a handler's may
    # never end.
    end = Timer(AT_EXIT, os._exit, (code,))
    end.daemon = True
    end.start()
    sys.exit(code)


if __name__ == "__main__":
    main()
