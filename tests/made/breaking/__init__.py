"""Drivers that try to break truepair: kills, full disks, little memory, two at once, damaged files, equal inputs.

They know commands and files, not how these are made: `jobs` says what is run, `outcomes` what must hold afterwards.
Every command runs in a child of one process that has imported everything and started no thread (`children`).
"""
