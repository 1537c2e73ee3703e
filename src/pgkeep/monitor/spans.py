"""Time spans for people."""


def span(seconds: float) -> str:
    """Return a time span in its two largest units: 3 d 4 h, 26 h, 5 min, 12 s."""
    if seconds >= 2 * 86400:
        days, rest = divmod(seconds, 86400)
        return f"{days:.0f} d {rest // 3600:.0f} h" if rest >= 3600 else f"{days:.0f} d"
    if seconds >= 3600:
        hours, rest = divmod(seconds, 3600)
        return f"{hours:.0f} h {rest // 60:.0f} min" if rest >= 60 else f"{hours:.0f} h"
    return f"{seconds // 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
