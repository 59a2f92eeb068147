"""One paper, one file; `METHODS` is the one list of them."""

from truepair.methods.baseline import Baseline
from truepair.methods.crcl import Crcl
from truepair.methods.disncl import Disncl
from truepair.methods.mscn import Mscn

METHODS = {"baseline": Baseline, "crcl": Crcl, "disncl": Disncl, "mscn": Mscn}
"""Method of each name: built from its config, `MakeModel`, the number of pairs and a Fabric."""
