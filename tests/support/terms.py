"""Terms that documents, help texts and messages do not use, with what to write instead."""

import re

# Pattern: what to write instead.
TERMS = {
    r"artifacts?": "backup file",
    r"(bring|brings|bringing|brought) (?:\w+ ){0,4}?back|(have|has|had) (it|them) back": "restore",
    r"ow(e|es|ed|ing)|debts?|pays?|paid|settled?|settles": "pending copy",
    r"reads? back": "verify",
    r"(is|are|was|were|be|not) whole|whole (backup|dump|artifact)s?|wholly": "complete",
    r"cut": "truncated",
    r"tells?|told": "report, print, log, send",
    r"says?|said|saying": "report, print, contain",
    r"mend(s|ed|ing)?": "fix",
    r"(that|which|what) (is|are|was|were) there|there (is|are|was|were)( no| a| an)?": "exists",
    r"lack(s|ed|ing)?": "missing, does not have",
    r"mistakes? of pgkeep('s)?|pgkeep's( own)? mistakes?": "unexpected error; a bug in pgkeep",
    r"throw-?away": "temporary",
    r"of (its|their|one's|our|your) own": "own, separate",
    r"drills? (?:\w+ ){0,3}(green|red)|(green|red) drills?": "passed, failed",
    r"must not|may not": "not allowed, cannot",
    r"(?<!you )want|wants|wanted": "requires",
    r"needs? of": "requires",
    r"anew": "recreate",
    r"beside": "next to",
    r"exclude each other": "cannot be used together",
    r"judg(e|es|ed|ing)": "check",
    r"believ(e|es|ed|ing)": "trust",
    r"spoils?|harms?": "make fail, damage",
    r"whoever": "a user who",
}
_RULES = {
    re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE): instead
    for pattern, instead in TERMS.items()
}


def found(text: str) -> list[str]:
    """Return what a text has of them, with some words around and the right term."""
    return [
        f"{text[max(0, match.start() - 30) : match.end() + 20]!r}: write {instead!r}"
        for rule, instead in _RULES.items()
        for match in rule.finditer(text)
    ]
