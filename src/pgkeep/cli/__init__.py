"""The command line: translate arguments into one library call, and its result into text or JSON.

Nothing is imported here: until `main` runs, SIGINT would end Python with a traceback.
"""


def main() -> None:
    """Run the command line and exit with the code that the outcome has."""
    import signal  # noqa: PLC0415
    import sys  # noqa: PLC0415

    # PostgreSQL runs these for each segment, and what is imported below takes too long. Their exit
    # codes have a meaning of their own, also those of wrong arguments.
    words = sys.argv[1:]
    if words and words[0].startswith("-") and "pitr" in words:
        words = words[words.index("pitr") :]  # options of all commands stand before it
    if words[:2] in (["pitr", "push"], ["pitr", "fetch"]) and not {"-h", "--help"} & set(words):
        from ..pitr import archive_client  # noqa: PLC0415

        archive_client.run(words[1], words[2:])

    # Until handlers are installed, a signal ends the process: nothing has been started yet.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .program import run  # noqa: PLC0415

    run()
