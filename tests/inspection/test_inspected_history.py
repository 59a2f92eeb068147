import math

from truepair.inspection.history import EpochOfCodes, history_of


def steps(epoch, count, **scalars):
    return {"kind": "steps", "epoch": epoch, "steps": count, **scalars}


def test_lines_of_an_epoch_are_weighted_by_their_steps():
    lines = [
        steps(0, 30, info_nce=2.0, confidence=1.0, adversary=0.4),
        steps(0, 10, info_nce=1.0, confidence=0.6, adversary=0.0),
        {"kind": "epoch", "epoch": 0, "rsum": 100.0},
    ]
    (epoch,) = history_of(lines, batch=64)
    assert math.isclose(epoch.shared_information, math.log(64) - 1.75)
    assert math.isclose(epoch.exclusive_information, 0.3)
    assert math.isclose(epoch.confidence, 0.9)


def test_what_the_log_does_not_say_or_no_number_is_left_out():
    lines = [
        steps(0, 5, info_nce=1.0),
        steps(1, 5, info_nce=0.5, adversary=math.nan),
        steps(1, 5, info_nce=0.5, adversary=0.2),
    ]
    assert history_of(lines, batch=1) == [EpochOfCodes(1, -1.0, None, None), EpochOfCodes(2, -0.5, 0.2, None)]


def test_the_log_of_another_method_has_no_history():
    assert history_of([steps(0, 5, loss=1.0), {"kind": "epoch", "epoch": 0}], batch=8) == []
