"""What a private key looks like, wherever somebody pasted it by mistake."""

import re

PRIVATE_KEY = re.compile(
    r"AGE-SECRET-KEY-|AGE-PLUGIN-|-----BEGIN [A-Z0-9 ]*PRIVATE KEY", re.IGNORECASE
)
