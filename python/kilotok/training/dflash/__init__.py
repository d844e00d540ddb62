"""DFlash drafters for any supported target: data, training, evaluation and files.

One drafter forward (`model`) serves training and evaluation. The teacher (`teacher`) says what the
target computes: its own text and the residuals that the drafter reads. `trainer` knows steps,
ranks and checkpoints, and nothing of where data comes from. Recipe: arXiv 2602.06036, sections 4
and 5; weighting ``dpace``: arXiv 2605.18810.
"""
