"""What decoding JSON of unknown origin raises, whichever decoder and types are used.

Text that is not UTF-8 is a ValueError, deep nesting a RecursionError, and a number that is too
large for a conversion an OverflowError.
"""

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)
