"""MIMIC-IT: instructions about one or more pictures, five sets in one file each.

`instructions` reads and groups the instructions of any set, `frames` finds the pictures of sets
with their own, `embedded` reads the packaging whose entries hold the pictures. `cgd`, `sd`,
`sn`, `tvc` and `vst` are the sets (`otter_mimicit_cgd` ... by name); `llava_otter_blend` joins CGD
to LLaVA's conversations.
"""
