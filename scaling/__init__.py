"""One decoder language model run, well measured.

Symbols, as in Kaplan et al. 2020 (arXiv 2001.08361) and Hoffmann et al. 2022 (arXiv 2203.15556):

    N         non-embedding parameters, exact          D         training tokens processed
    N_total   all parameters                           D_unique  distinct training tokens seen
    C         training FLOPs, 6 N D                    B         tokens per optimiser step
    S         optimiser steps                          L         held-out test loss [nats/token]
    E         irreducible loss [nats/token]

Configs and the command line use words (``tokens``, ``batch_tokens``); tables and formulas use these
symbols. ``scaling.schema.COLUMNS`` is the one place that joins them.
"""

__distribution__ = "scaling-laws-lab"
