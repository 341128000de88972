"""The programs of a run compiled for devices that are not here, and what they need.

`programs` lowers them from a config, `topology` names devices, `report` compiles and
measures, `fitting` looks for what would fit. tools/compile_for_topology.py drives it.
"""
