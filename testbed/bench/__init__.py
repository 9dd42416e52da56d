"""The claims of the README, measured again: `scripts/bench`.

Each case is a comparison or run of the ordinary command; what is claimed is a ratio between
measurements of the same call of this script, or against a bound that the run itself printed.
"""
