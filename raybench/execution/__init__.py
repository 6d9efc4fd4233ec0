"""Running a plan: on Ray Tune, in this process, or as a job on a cluster. The only rooms that import ray."""
