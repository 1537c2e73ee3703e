"""The command line: translate arguments into one library call, and its result into text or JSON.

Nothing is imported here: until `main` runs, SIGINT would end Python with a traceback.
"""


def main() -> None:
    """Run the command line and exit with the code that the outcome has."""
    import signal  # noqa: PLC0415

    # Until handlers are installed, a signal ends the process: nothing has been started yet.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .program import run  # noqa: PLC0415

    run()
