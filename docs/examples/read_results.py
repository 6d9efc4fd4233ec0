"""Read the results of a sweep into pandas and print the best method for each model.

raybench run sweeps/quickstart.yaml --local --storage results
python docs/examples/read_results.py results
"""

import sys

import raybench

CELL = ["dataset", "model", "speedup_target", "strategy"]  # cells that differ in nothing else can be compared


def main(folder: str) -> None:
    frame = raybench.load_results(folder)  # one row a cell: finished, failed and skipped ones
    print(frame["status"].value_counts().to_string())
    done = frame[frame["status"] == "ok"]
    if done.empty:
        sys.exit(f"{folder} has no finished cell")
    scores = done.groupby([*CELL, "method"])["metric_final"].agg(["mean", "std", "count"])  # over the seeds
    best = scores.loc[scores.groupby(CELL)["mean"].idxmax()].reset_index()
    print("\nbest method of each model (metric after fine-tuning, mean and standard deviation over seeds):")
    print(best.to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python read_results.py FOLDER")
    main(sys.argv[1])
