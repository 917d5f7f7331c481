"""Beside the loop, which needs none of it: plan, doctor, report, ablation, benchmarks, status, export."""
