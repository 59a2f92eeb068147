"""Databases of decisions, and what disks, copies and editors do to files."""

import random

from truepair.cleaning.decisions_db import ACTIONS

DAMAGES = ("bytes", "zeros", "noise", "cut short", "pages exchanged")
_PAGE = 4096


def decide_at_random(decisions, steps, pairs, seed=0):
    """Decisions, undone and made again, of the pages "a" and "b"; about captions "caption 1" and so on."""
    drawn = random.Random(seed)
    for _ in range(steps):
        page, what = drawn.choice("ab"), drawn.choice(["decide"] * 4 + ["undo", "redo"])
        if what == "decide":
            pair, action = drawn.randint(1, pairs), drawn.choice(ACTIONS)
            decisions.decide(page, pair, f"caption {pair}", action, "image 9" if action == "re-pair" else None)
        else:
            getattr(decisions, what)(page)


def damaged(content, how, drawn):
    """The bytes of a file, damaged in one way."""
    changed = bytearray(content)
    if how == "bytes":
        for _ in range(drawn.choice([1, 4, 32])):
            changed[drawn.randrange(len(changed))] = drawn.randrange(256)
    elif how == "cut short":
        del changed[drawn.randrange(len(changed)) :]
    elif how == "pages exchanged":
        one, two = (_PAGE * drawn.randrange(len(changed) // _PAGE) for _ in range(2))
        first, second = changed[one : one + _PAGE], changed[two : two + _PAGE]
        changed[one : one + _PAGE], changed[two : two + _PAGE] = second, first
    else:
        start, length = drawn.randrange(len(changed)), drawn.choice([16, 512, _PAGE])
        length = len(changed[start : start + length])
        changed[start : start + length] = bytes(length) if how == "zeros" else drawn.randbytes(length)
    return bytes(changed)
