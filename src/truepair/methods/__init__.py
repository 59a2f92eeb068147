"""One method, one file; `METHODS` is the one list of them."""

from truepair.methods.baseline import Baseline
from truepair.methods.crcl import Crcl
from truepair.methods.disncl import Disncl
from truepair.methods.mscn import Mscn
from truepair.methods.teacher import Teacher

METHODS = {"baseline": Baseline, "crcl": Crcl, "disncl": Disncl, "mscn": Mscn, "teacher": Teacher}
"""Method of each name: built from its config, `MakeModel`, the number of pairs and a Fabric."""
