"""The node's half of a worker process: what stands between the socket and the user's function.

Only the standard library is used; numpy stays unloaded unless user code loads it. The modules, in
the order in which a sample meets them: `serve` (the loop), `frames` (the layout), `values` (bytes
to Python and back), `loading` (the definition), `calls` (seeds and arguments), `answers` (what was
returned), `streams` (objects in pieces), `faults` (exceptions).
"""
