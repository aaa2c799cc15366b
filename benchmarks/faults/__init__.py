"""Campaigns that try to make the package lie: kills, damaged files, hostile calls and hostile settings.

python -m benchmarks.faults [--trials=1.0] [--seed=0] [--out=benchmarks/faults/results.json] [kill corrupt fuzz config]
"""
