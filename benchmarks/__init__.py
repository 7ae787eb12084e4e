"""How fast ollamux is, beside the least that anything could take: `python -m benchmarks`. No part of the package."""
