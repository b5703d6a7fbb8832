"""The real scheduler on a cluster that does not exist, under a virtual clock, with faults drawn from a seed.

python -m orchestrator.simulate --seeds 0:5000   random clusters, models and faults; every step is checked
python -m orchestrator.simulate --seed 17        one of them again
python -m orchestrator.simulate zoo              makespan and lower bound of the RewardBench zoo
"""
